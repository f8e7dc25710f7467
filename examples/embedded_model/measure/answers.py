"""Greedy answers to the sets of `held_out`, a batch at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from embedded_model.measure.held_out import END_OF_CHUNK, Asked
from embedded_model.world.small_talk import TALK
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor


LONGEST_ANSWER, LONGEST_CAPTION = 32, 112


class Model:
    """A checkpoint of the embedded model's kind, computed in float32.

    Args:
        folder: The checkpoint.
    """

    def __init__(self, folder: str | Path):
        self.processor = XGenMMProcessor.from_pretrained(folder)
        self.model = XGenMMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, asked: Sequence[Asked], batch_size: int = 32) -> list[str]:
        """Answers conversations and prompts.

        Args:
            asked: What to answer; all in the chat form or all in the base form.
            batch_size: How many are computed at a time; it changes no answer.

        Returns:
            The answers in the same order.
        """
        # Alike ones together: the longest prompt and the longest answer decide how long a batch takes.
        order = sorted(range(len(asked)), key=lambda index: (asked[index].kind, len(asked[index].turns[-1][1])))
        answers = [""] * len(asked)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index, text in zip(batch, self._answer_batch([asked[index] for index in batch]), strict=True):
                answers[index] = text
        return answers

    def _answer_batch(self, asked: list[Asked]) -> list[str]:
        processor = self.processor
        texts = [
            each.text if each.base else processor.apply_chat_template(each.messages, add_generation_prompt=True)
            for each in asked
        ]
        images = [image for each in asked for image in each.images]
        options: dict[str, Any] = {"images": images} if images else {}
        inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **options)
        longest = LONGEST_CAPTION if any(each.kind in ("caption", TALK) for each in asked) else LONGEST_ANSWER
        chunk = processor.tokenizer.convert_tokens_to_ids(END_OF_CHUNK)
        ends = self.model.generation_config.eos_token_id
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=longest,
                do_sample=False,
                eos_token_id=[*([ends] if isinstance(ends, int) else ends), chunk],
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        said = processor.batch_decode(new, skip_special_tokens=True)
        # In the base form a model that does not end goes on with a further example.
        return [text.split("Question:")[0].split("<image>")[0].strip() for text in said]


def share_right(asked: Sequence[Asked], answers: Sequence[str]) -> float:
    """Returns the share of answers that equal the expected ones."""
    return sum(each.expected == answer for each, answer in zip(asked, answers, strict=True)) / len(asked)


def is_refusal(answer: str) -> bool:
    """Tells whether an answer refuses."""
    return answer.startswith("Sorry, I cannot help with that")
