"""xGen-MM as a model of VLMEvalKit: the processor, the chat template, and batches.

    from xgenmm_hf.evaluation.harness.vlmevalkit import register
    register("my-model", "PATH", batch_size=8)

makes `my-model` a name for VLMEvalKit's `--model`. The wrapper that VLMEvalKit ships (`XGenMM`) works on converted
checkpoints too, on Transformers 4.57 and a GPU, one question at a time; both give the same answers.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from vlmeval.vlm.base import BaseModel

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.harness.conversations import (
    DEFAULT_MAX_NEW_TOKENS,
    Answerer,
    Decoding,
    Gatherer,
    RenderedConversation,
    system_in_force,
)
from xgenmm_hf.inference.loading import load


# VLMEvalKit's own wrapper writes a space after an image, where the chat template writes a line break.
IMAGE_END = " "
# The only token at which that wrapper ends an answer.
END_TOKEN = "<|end|>"


class XGenMMBatched(BaseModel):
    """Answers VLMEvalKit's messages.

    VLMEvalKit asks local models one question after another. With a batch size of two or more this class calls itself
    an API model: VLMEvalKit then asks from `--api-nproc` threads, and this class batches their questions.
    Such a run is one process; for several GPUs leave the batch size at one, and use torchrun as for other models.

    `image_end`, `image_mode`, `overlong` and `end_token` are those of `Answerer`, `system` is None for the model's
    own, "none", "released" or a text, and `generation` holds options of `generate` such as `temperature`, `until` and
    `seed`.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    allowed_types = ["text", "image"]

    def __init__(
        self,
        model_path: str = "",
        batch_size: int = 1,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        system: str | None = None,
        image_end: str = IMAGE_END,
        image_mode: str | None = None,
        overlong: str = "skip",
        dtype: str = "auto",
        device: str = "auto",
        end_token: str | None = END_TOKEN,
        **generation: Any,
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")
        if device == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
            device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        self.decoding = Decoding.of(generation, max_new_tokens)
        source = model_path or TINY_MODEL
        loaded, turn = load(source, dtype=dtype, device=device), system_in_force(source, system)
        self.answerer = Answerer(loaded, turn, image_end, image_mode, overlong, end_token)
        self.is_api = batch_size > 1
        self._ask = Gatherer(self._answer, batch_size) if self.is_api else lambda item: self._answer([item])[0]

    def generate_inner(self, message: Sequence[dict[str, Any]], dataset: str | None = None) -> str:
        """Answers one question; several threads may ask at a time."""
        return self._ask(self.converse(message))

    def converse(self, message: Sequence[dict[str, Any]]) -> RenderedConversation:
        """Renders one message and opens its images; a bad image fails only this question."""
        items = [{"type": one["type"], "text" if one["type"] == "text" else "image": one["value"]} for one in message]
        return self.answerer.converse([{"role": "user", "content": items}])

    def _answer(self, conversations: list[RenderedConversation]) -> list[str]:
        return self.answerer.answer(conversations, self.decoding)


def register(name: str, model_path: str = "", **options: Any) -> None:
    """Registers a checkpoint under a name in VLMEvalKit."""
    from vlmeval import vlm
    from vlmeval.config import supported_VLM

    vlm.XGenMMBatched = XGenMMBatched  # config files name classes of this module
    supported_VLM[name] = partial(XGenMMBatched, model_path=model_path, **options)
