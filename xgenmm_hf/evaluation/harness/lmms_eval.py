"""xGen-MM as a model of lmms-eval: `lmms-eval --model xgenmm --model_args pretrained=PATH --tasks ...`.

`XGenMMChat` reads a task's messages and is what lmms-eval takes by default; `XGenMMSimple` reads a text and images,
as tasks need that rate given answers (`--force_simple`). Both answer greedily unless a task asks otherwise, with the
released system turn, so that their answers are those of `xgenmm eval` to the same prompts.
"""

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from xgenmm_hf.evaluation.harness.conversations import (
    DEFAULT_MAX_NEW_TOKENS,
    PARAGRAPH,
    Conversation,
    Decoding,
    generate_answers,
    in_batches,
    rate_continuations,
    render,
)
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN


class XGenMMBase(lmms):
    """Loads a model and answers in batches; the subclasses know what a request looks like.

    Args:
        pretrained: Checkpoint folder or Hub repository.
        batch_size: Requests computed together.
        device: A torch device, or None: a GPU where there is one, this process's own under `accelerate launch`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        system: "released", "none", or the text of a system turn. A task's own system turn goes first.
        max_new_tokens: Longest answer where a task does not say.
        max_batch_size: Ignored; lmms-eval passes it to every model.

    Raises:
        ValueError: If the model cannot be loaded, or the batch size is not a number.
    """

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        system: str = "released",
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        from xgenmm_hf import TINY_MODEL
        from xgenmm_hf.inference.asking import system_turn
        from xgenmm_hf.inference.loading import load

        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}; give a number, such as --batch_size 8.")
        self.batch_size = int(batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            device = str(self.accelerator.device)
        self.loaded = load(pretrained or TINY_MODEL, dtype=dtype, device=device or "auto")
        self.device = self.loaded.model.device
        self.system = system_turn(system)
        self.max_new_tokens = int(max_new_tokens)

    @property
    def config(self) -> Any:
        """The model's config; lmms-eval names the model by it."""
        return self.loaded.model.config

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.loaded.processor.tokenizer

    def document(self, task: str, split: str, index: int) -> Any:
        """Returns a document of a task."""
        return self.task_dict[task][split][index]

    def decoding(self, options: dict[str, Any]) -> Decoding:
        """Translates a task's `generation_kwargs`.

        Args:
            options: The task's options; those of other models are passed over.

        Returns:
            How to generate.
        """
        until = options.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        return Decoding(
            max_new_tokens=int(options.get("max_new_tokens") or options.get("max_gen_toks") or self.max_new_tokens),
            temperature=float(options.get("temperature") or 0.0) if options.get("do_sample") is not False else 0.0,
            top_p=options.get("top_p"),
            num_beams=int(options.get("num_beams") or 1),
            until=tuple(text for text in until if text != PARAGRAPH),
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[Any]:
        """Refuses tasks of several rounds; `XGenMMChat` answers them."""
        raise NotImplementedError("Tasks of several rounds need the chat form of the model: leave out --force_simple.")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuses to rate answers; `XGenMMSimple` does, and lmms-eval sends such tasks to no chat model."""
        raise NotImplementedError("Tasks that rate given answers need the simple form of the model: --force_simple.")

    def _answer_all(
        self, requests: Sequence[Instance], options_at: int, converse: Callable[[tuple], Conversation]
    ) -> list[str]:
        """Answers requests in batches of equal options, the longest contexts first.

        Args:
            requests: The requests; the first argument of each is its context.
            options_at: Which argument holds the generation options.
            converse: Builds the conversation of a request's arguments.

        Returns:
            An answer a request, in their order.
        """
        arguments = [request.args for request in requests]
        answers = [""] * len(arguments)
        bar = tqdm(total=len(arguments), disable=self.rank != 0, desc="answering")
        batches = in_batches(
            arguments, self.batch_size, lambda each: len(each[0]), lambda each: self.decoding(each[options_at])
        )
        for batch in batches:
            conversations = [converse(arguments[index]) for index in batch]
            decoding = self.decoding(arguments[batch[0]][options_at])
            for index, answer in zip(batch, generate_answers(self.loaded, conversations, decoding), strict=True):
                answers[index] = answer
                self.cache_hook.add_partial("generate_until", arguments[index][:1], answer)
            bar.update(len(batch))
        bar.close()
        return answers


class XGenMMChat(XGenMMBase):
    """Reads the messages that a task makes of a document (`doc_to_messages`)."""

    is_simple = False

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers requests (context, doc_to_messages, options, document's index, task, split)."""

        def converse(arguments: tuple) -> Conversation:
            _, to_messages, _, index, task, split = arguments
            return self._render(to_messages(self.document(task, split, index)))

        return self._answer_all(requests, 2, converse)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """Answers requests whose task makes each round's messages of the answers so far.

        Args:
            requests: As in `generate_until`; from the second round on `doc_to_messages` takes the rounds so far and
                returns (messages, whether it is over, answers, information for the next round).

        Returns:
            The answers of all rounds of each request.
        """
        return [self._answer_rounds(*request.args[1:]) for request in requests]

    def _answer_rounds(
        self, to_messages: Callable, options: dict[str, Any], index: int, task: str, split: str
    ) -> list[str]:
        document, decoding = self.document(task, split, index), self.decoding(options)
        messages, information, answers = to_messages(document), None, []
        while True:
            answers += generate_answers(self.loaded, [self._render(messages)], decoding)
            state = {"previous_output": list(answers), "previous_round_info": information}
            following = to_messages(document, round_idx=len(answers), **state)
            if not isinstance(following, tuple) or following[1]:
                return answers
            messages, _, _, information = following

    def _render(self, messages: Sequence[Any]) -> Conversation:
        return render(self.loaded.processor, messages, self.system)


class XGenMMSimple(XGenMMBase):
    """Reads a context and the images of a document (`doc_to_visual`), which come before it."""

    is_simple = True

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers requests (context, options, doc_to_visual, document's index, task, split)."""

        def converse(arguments: tuple) -> Conversation:
            context, _, to_visual, index, task, split = arguments
            return self._render(context, to_visual(self.document(task, split, index)))

        return self._answer_all(requests, 1, converse)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """Rates given answers.

        lmms-eval's own scoring takes the smallest number as the best answer, as its other models return losses.

        Args:
            requests: (context, answer or doc_to_target, doc_to_visual, document's index, task, split), or (context,
                answer) alone.

        Returns:
            For each answer the mean negative log-likelihood of its tokens, and whether greedy decoding gives it, in
            the one wrapping that lmms-eval hands on to its scoring unchanged (a bare pair it would turn into text).
        """
        arguments = [request.args for request in requests]
        ratings: list[tuple[float, bool]] = [(0.0, False)] * len(arguments)
        batches = in_batches(arguments, self.batch_size, lambda each: len(each[0]), lambda _: None)
        for batch in tqdm(list(batches), disable=self.rank != 0, desc="rating"):
            pairs = [self._pair(*arguments[index]) for index in batch]
            conversations, answers = (list(part) for part in zip(*pairs, strict=True))
            for index, rating in zip(batch, rate_continuations(self.loaded, conversations, answers), strict=True):
                ratings[index] = rating
        return [GenerationResult(text=rating) for rating in ratings]

    def _pair(self, context: str, answer: Any, to_visual: Callable | None = None, *place: Any) -> tuple:
        """Returns a request's conversation and answer."""
        document = None if to_visual is None else self.document(place[1], place[2], place[0])
        text = answer if isinstance(answer, str) else answer(document)
        return self._render(context, to_visual(document) if to_visual is not None else None), text

    def _render(self, context: str, visuals: Sequence[Any] | None) -> Conversation:
        content = place_images(context, visuals or [])
        return render(self.loaded.processor, [{"role": "user", "content": content}], self.system)


def place_images(context: str, visuals: Sequence[Any]) -> list[dict[str, Any]]:
    """Puts images where a context marks them with `<image>`, or before a context without such marks.

    Args:
        context: The text.
        visuals: The images.

    Returns:
        Items of a message.

    Raises:
        ValueError: If there are some marks, but not one per image.
    """
    images = [{"type": "image", "image": visual} for visual in visuals]
    texts = context.split(IMAGE_TOKEN)
    if len(texts) == 1 or not images:
        return [*images, {"type": "text", "text": context}]
    if len(texts) - 1 != len(images):
        raise ValueError(f"A context marks {len(texts) - 1} images with {IMAGE_TOKEN}, but has {len(images)}.")
    items = [{"type": "text", "text": texts[0]}]
    for image, text in zip(images, texts[1:], strict=True):
        # the template puts a line break behind an image by itself
        items += [image, {"type": "text", "text": text.removeprefix("\n")}]
    return items
