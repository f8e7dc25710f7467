"""The golden cases: numbers that the original code printed for tiny random weights."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.conversion import convert_state_dict


GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"


@dataclass
class GoldenCase:
    """One folder of golden data."""

    name: str

    @property
    def folder(self) -> Path:
        return GOLDEN / self.name

    @cached_property
    def case(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "expected.safetensors")

    def model(self, **overrides) -> XGenMMForConditionalGeneration:
        config = XGenMMConfig.from_pretrained(self.folder / "checkpoint")
        attention = overrides.pop("attn_implementation", "sdpa")
        for name, value in overrides.items():
            setattr(config, name, value)
        model = XGenMMForConditionalGeneration._from_config(config, attn_implementation=attention)
        weights = load_file(GOLDEN / "anyres" / "checkpoint" / "model.safetensors")
        model.load_state_dict(convert_state_dict(weights, config))
        return model.eval()

    def images(self, index: int) -> list[torch.Tensor]:
        sizes = self.case["samples"][index]["image_sizes"]
        return [self.inputs[f"pixels.{index}.{image}"] for image in range(len(sizes))]

    def expand(self, index: int) -> tuple[list[int], list[int]]:
        """Returns a sample's ids and labels with every image expanded to its tokens."""
        sample, images = self.case["samples"][index], iter(self.images(index))
        ids, labels = [], []
        for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
            if token == self.case["placeholder_token_id"]:
                continue
            repeats = 1
            if token == self.case["image_token_id"]:
                repeats = len(next(images)) * self.case["num_vision_tokens"]
            ids += [token] * repeats
            labels += [label] * repeats
        return ids, labels

    def batch(self, indices: list[int], padding_side: str = "left") -> dict[str, torch.Tensor]:
        """Returns samples as one padded batch of the model's inputs, with labels."""
        rows = [self.expand(index) for index in indices]
        longest = max(len(ids) for ids, _ in rows)

        def pad(values: list[int], fill: int) -> list[int]:
            padding = [fill] * (longest - len(values))
            return padding + values if padding_side == "left" else values + padding

        batch = {
            "input_ids": torch.tensor([pad(ids, self.case["pad_token_id"]) for ids, _ in rows]),
            "attention_mask": torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows]),
            "labels": torch.tensor([pad(labels, -100) for _, labels in rows]),
        }
        images = [image for index in indices for image in self.images(index)]
        sizes = [size for index in indices for size in self.case["samples"][index]["image_sizes"]]
        if images:
            batch["pixel_values"] = torch.cat(images)
            batch["image_sizes"] = torch.tensor([(height, width) for width, height in sizes])
            batch["image_num_tiles"] = torch.tensor([len(image) for image in images])
        return batch

    def prompt(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Returns a batch for `generate`."""
        return {name: value for name, value in self.batch(indices).items() if name != "labels"}

    @property
    def everything(self) -> list[int]:
        return list(range(len(self.case["samples"])))

    @property
    def options(self) -> dict[str, int]:
        """Generation options of the golden calls."""
        return {name: self.case[name] for name in ("max_new_tokens", "eos_token_id", "pad_token_id")}
