"""Generation that hands out text while it goes on, and that ends when nobody listens any more."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from xgenmm_hf.inference.asking import CallbackStreamer, room_for_answer
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
    """Generates in a thread of its own and yields pieces of the answer, each with the number of tokens so far.

    Closing the iterator ends the generation.
    """
    room = room_for_answer(loaded.model.config, inputs["input_ids"].shape[1])
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stop = StopWhenSet(threading.Event())
    failures: list[Exception] = []

    def generate() -> None:
        try:
            with torch.inference_mode():
                loaded.model.generate(
                    **inputs,
                    **options,
                    max_new_tokens=min(max_new_tokens, room),
                    streamer=CallbackStreamer(loaded.processor.tokenizer, pieces.put),
                    stopping_criteria=StoppingCriteriaList([stop]),
                )
        except Exception as error:  # whatever it is belongs to the thread that listens
            failures.append(error)
        finally:
            pieces.put(None)

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            yield piece, stop.num_tokens
        yield "", stop.num_tokens
    finally:
        stop.event.set()
        thread.join()
    if failures:
        raise failures[0]
