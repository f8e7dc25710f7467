"""xGen-MM as a model of lmms-eval: `lmms-eval --model xgenmm --model_args pretrained=PATH --tasks ...`.

`XGenMMChat` reads a task's messages, as lmms-eval asks by default, `XGenMMSimple` a text and images, as tasks need
that rate given answers (`--force_simple`). Both ask the same, greedily unless told otherwise, as `xgenmm eval` does.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.harness.conversations import (
    DEFAULT_MAX_NEW_TOKENS,
    Answerer,
    Decoding,
    RenderedConversation,
    in_batches,
    system_in_force,
)
from xgenmm_hf.inference.batches import rate_answers
from xgenmm_hf.inference.loading import load
from xgenmm_hf.inference.prompts import build_messages


logger = logging.getLogger(__name__)


class XGenMMBase(lmms):
    """Loads a model and answers in batches; the subclasses read the requests.

    The arguments are lmms-eval's `--model_args`: `system` is None for the checkpoint's own, "none", "released" or a
    text (a task's own goes first), `max_new_tokens` the longest answer of tasks that set none, and `overlong` what
    happens to prompts longer than the context (see `Answerer`). `max_batch_size`, which all models get, is ignored.
    """

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        system: str | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        image_mode: str | None = None,
        overlong: str = "skip",
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}; give a number, such as --batch_size 8.")
        self.batch_size, self.max_new_tokens = int(batch_size), int(max_new_tokens)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            device = str(self.accelerator.device)
        source = pretrained or TINY_MODEL
        self.loaded = load(source, dtype=dtype, device=device or "auto")
        self.device, self.tokenizer = self.loaded.model.device, self.loaded.processor.tokenizer
        self.config = self.loaded.model.config  # lmms-eval names the model by it
        turn = system_in_force(source, system)
        self.answerer = Answerer(self.loaded, turn, image_mode=image_mode, overlong=overlong)

    def document(self, task: str, split: str, index: int) -> Any:
        """Returns a document of a task."""
        return self.task_dict[task][split][index]

    def decoding(self, options: dict[str, Any]) -> Decoding:
        """Translates a task's `generation_kwargs`; see `Decoding.of`."""
        return Decoding.of(options, self.max_new_tokens)

    def converse(self, messages: Sequence[Any], options: dict[str, Any]) -> RenderedConversation:
        """Renders a request's messages, with room for the longest answer that its options allow."""
        return self.answerer.converse(messages, Decoding.of(options, 1).max_new_tokens)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[Any]:
        """Refuses tasks of several rounds."""
        raise NotImplementedError("xGen-MM answers tasks of one round: leave this task out.")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """Refuses to rate answers, which only `XGenMMSimple` does."""
        raise NotImplementedError("Tasks that rate given answers need the simple form of the model: --force_simple.")

    def _batches(self, arguments: Sequence[tuple], title: str, group: Callable[[tuple], Any]) -> Any:
        """Yields batches of indices, the longest contexts first, with a progress bar."""
        batches = list(in_batches(arguments, self.batch_size, lambda each: len(each[0]), group))
        return tqdm(batches, disable=self.rank != 0, desc=title)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers requests in batches of equal options."""
        arguments = [request.args for request in requests]
        answers = [""] * len(arguments)
        for batch in self._batches(arguments, "answering", lambda each: self.decoding(each[self.options_at])):
            options = arguments[batch[0]][self.options_at]
            conversations = [self.converse(self.messages(*arguments[index]), options) for index in batch]
            for index, answer in zip(batch, self.answerer.answer(conversations, self.decoding(options)), strict=True):
                answers[index] = answer
                self.cache_hook.add_partial("generate_until", arguments[index][:1], answer)
        if count := self.answerer.skipped:
            logger.warning("%d prompts were longer than the context: answered with an empty text.", count)
        return answers


class XGenMMChat(XGenMMBase):
    """Reads the messages that a task makes of a document (`doc_to_messages`)."""

    is_simple = False
    options_at = 2

    def messages(
        self, context: str, to_messages: Callable, options: Any, index: int, task: str, split: str
    ) -> Sequence[Any]:
        """Returns a request's messages."""
        return to_messages(self.document(task, split, index))


class XGenMMSimple(XGenMMBase):
    """Reads a context and the images of a document (`doc_to_visual`), which come before it."""

    is_simple = True
    options_at = 1

    def messages(
        self, context: str, options: Any, to_visual: Callable, index: int, task: str, split: str
    ) -> Sequence[Any]:
        """Returns a request's messages."""
        return build_messages(to_visual(self.document(task, split, index)) or [], context)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """Rates given answers by their losses; lmms-eval's own scoring takes the smallest as the best answer."""
        arguments = [request.args for request in requests]
        ratings: list[Any] = [None] * len(arguments)
        for batch in self._batches(arguments, "rating", lambda each: None):
            pairs = [self._pair(*arguments[index]) for index in batch]
            images = [image for conversation, _ in pairs for image in conversation.images]
            texts, answers = [conversation.text for conversation, _ in pairs], [answer for _, answer in pairs]
            found = rate_answers(self.loaded, texts, images, answers, self.answerer.image_mode)
            for index, rating in zip(batch, found, strict=True):
                ratings[index] = GenerationResult(text=rating)
        return ratings

    def _pair(self, context: str, answer: Any, to_visual: Callable | None = None, *place: Any) -> tuple:
        document = None if to_visual is None else self.document(place[1], place[2], place[0])
        text = answer if isinstance(answer, str) else answer(document)
        images = to_visual(document) if to_visual is not None else None
        return self.converse(build_messages(images or [], context), {}), text
