"""Runs exported graphs with torch alone: no Transformers, and no code of the model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Graphs:
    """The two graphs of a model.

    Args:
        vision: Called with `pixel_values`, `image_sizes`, `image_num_tiles`: the images' tokens, (N, text width).
        text: Called as `export_graphs.modules.TextGraph` is: logits, (B, vocabulary).
        facts: The content of `graphs.json`.
    """

    vision: Any
    text: Any
    facts: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Graphs":
        """Loads what `python -m export_graphs` wrote into a folder."""
        path = Path(folder)
        missing = [name for name in ("graphs.json", "vision.pt2", "text.pt2") if not (path / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} holds no {', '.join(missing)}; make the graphs with: python -m export_graphs MODEL OUT"
            )
        facts = json.loads((path / "graphs.json").read_text(encoding="utf-8"))
        vision, text = (torch.export.load(path / f"{name}.pt2").module() for name in ("vision", "text"))
        return cls(vision, text, facts)

    def generate(self, inputs: Mapping[str, torch.Tensor], max_new_tokens: int = 64) -> torch.Tensor:
        """Answers greedily.

        Args:
            inputs: What the processor gave for prompts padded on the left.
            max_new_tokens: Upper limit of an answer's length in tokens.

        Returns:
            The new tokens, (B, at most max_new_tokens); padding behind the end of a shorter one.

        Raises:
            ValueError: If prompt and answer do not fit the graph's context.
        """
        cache = self.facts["cache"]
        input_ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
        if length + max_new_tokens > cache["context"]:
            raise ValueError(
                f"The prompt has {length} tokens and the answer up to {max_new_tokens}, the graph's context is "
                f"{cache['context']}; ask for a shorter answer, or export with a larger --context."
            )
        dtype = getattr(torch, self.facts["dtype"])
        shape = (len(input_ids), cache["heads"], cache["context"], cache["head_dim"])
        state: dict[str, Any] = {
            "image_tokens": self.encode(inputs),
            "padding": (inputs["attention_mask"] == 0).sum(1),
        }
        for name in ("keys", "values"):
            state[name] = [torch.zeros(shape, dtype=dtype) for _ in range(cache["layers"])]
        ends = torch.tensor(self.facts["end_token_ids"])
        step, start, answers = input_ids, torch.zeros(1, dtype=torch.long), input_ids[:, :0]
        ended = torch.zeros(len(input_ids), 1, dtype=torch.bool)
        while answers.shape[1] < max_new_tokens and not ended.all():
            token = self.text(input_ids=step, start=start, **state).argmax(-1, keepdim=True)
            token = token.masked_fill(ended, self.facts["pad_token_id"])
            start = start + step.shape[1]
            answers, ended, step = torch.cat([answers, token], dim=1), ended | torch.isin(token, ends), token
        return answers

    def encode(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the tokens of the prompts' images, (N, text width); one row that is not read without images."""
        dtype = getattr(torch, self.facts["dtype"])
        if "pixel_values" not in inputs:
            return torch.zeros(1, self.facts["text_width"], dtype=dtype)
        names = ("pixel_values", "image_sizes", "image_num_tiles")
        given = {name: inputs[name] for name in names}
        return self.vision(**{**given, "pixel_values": given["pixel_values"].to(dtype)})
