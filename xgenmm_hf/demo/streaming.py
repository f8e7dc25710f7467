"""Generation that yields text while it runs, and that ends when the caller stops reading."""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from xgenmm_hf.inference.asking import room_for_answer
from xgenmm_hf.inference.loading import Loaded


class StopWhenSet(StoppingCriteria):
    """Ends generation at the next token after an event was set, and counts the tokens."""

    def __init__(self, event: threading.Event):
        self.event, self.num_tokens = event, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Returns whether each sequence is done, (B,)."""
        self.num_tokens += 1
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


def stream_tokens(loaded: Loaded, inputs: Any, *, max_new_tokens: int, **options: Any) -> Iterator[tuple[str, int]]:
    """Generates in a thread and yields pieces of the answer, each with the number of tokens so far.

    Closing the iterator ends the generation.
    """
    room = room_for_answer(loaded.model.config, inputs["input_ids"].shape[1])
    pieces = TextIteratorStreamer(loaded.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop = StopWhenSet(threading.Event())
    options |= {"max_new_tokens": min(max_new_tokens, room), "stopping_criteria": StoppingCriteriaList([stop])}
    failures: list[Exception] = []

    def generate() -> None:
        try:
            with torch.inference_mode():
                loaded.model.generate(**inputs, **options, streamer=pieces)
        except Exception as error:  # raised again in the thread that reads
            failures.append(error)
            pieces.end()

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        for piece in pieces:
            yield piece, stop.num_tokens
    finally:
        stop.event.set()
        thread.join()
    if failures:
        raise failures[0]
