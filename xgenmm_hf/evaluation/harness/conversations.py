"""Batched answers and ratings of conversations with images, shared by the adapters of the harnesses."""

import copy
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import GenerationConfig, set_seed

from xgenmm_hf.data.image_refs import open_image
from xgenmm_hf.data.rows import text_part
from xgenmm_hf.evaluation.few_shot import split_at_marks
from xgenmm_hf.evaluation.prompting import prompt_length
from xgenmm_hf.inference.asking import generate_rows
from xgenmm_hf.inference.batches import encode_batch, read_answer
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompt_form import read_prompt_form
from xgenmm_hf.inference.prompts import system_turn
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN, content_as_items, escape_messages
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


logger = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS = 1024
# lmms-eval's default stop, its delimiter between few-shot examples. It is ignored, because an instruct model's answer
# may have paragraphs.
PARAGRAPH = "\n\n"
# Ignored options, which tasks set for other models: LLaVA's tiling, tools of agents, decoding that we do ourselves.
PASSED_OVER = frozenset(("image_aspect_ratio", "visual_cot", "max_agentic_steps", "skip_special_tokens"))
SAMPLING = frozenset(("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"))
_LENGTHS = ("max_new_tokens", "max_gen_toks", "max_tokens")
_ENDS = ("until", "stop_sequences", "stop")
OVERLONG = ("skip", "truncate")


@dataclass(frozen=True)
class RenderedConversation:
    """A rendered prompt with one `<image>` per image, and its RGB images; `fits` tells if the context holds it."""

    text: str
    images: list[Image.Image]
    fits: bool = True


@dataclass(frozen=True)
class Decoding:
    """How answers are generated: their length in tokens, options of `generate` (none: greedily), ends, and a seed."""

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    options: tuple[tuple[str, Any], ...] = ()
    until: tuple[str, ...] = ()  # texts that end an answer and do not belong to it
    seed: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], max_new_tokens: int) -> "Decoding":
        """Translates a harness's generation options; raises a `ValueError` for one that the model does not support."""
        rest = {name: value for name, value in options.items() if value is not None and name not in PASSED_OVER}
        lengths, ends = ([rest.pop(name, None) for name in names] for names in (_LENGTHS, _ENDS))
        seed, until = rest.pop("seed", None), next(filter(None, ends), ())
        unknown = [name for name in rest if not hasattr(GenerationConfig(), name) or name == "num_return_sequences"]
        if unknown:
            raise ValueError(
                f"The generation option {unknown[0]!r} ({rest[unknown[0]]!r:.40}) is not supported by this model: "
                "leave it out, or use its name in Transformers' generate."
            )
        if rest.pop("do_sample", True) and float(rest.get("temperature", 0.0)) > 0:
            rest["do_sample"] = True
        else:
            rest = {name: value for name, value in rest.items() if name not in SAMPLING}
        texts = tuple(text for text in ([until] if isinstance(until, str) else until) if text != PARAGRAPH)
        length = int(next(filter(None, lengths), max_new_tokens))
        return cls(length, tuple(sorted(rest.items())), texts, None if seed is None else int(seed))


def render(
    processor: XGenMMProcessor, messages: Sequence[Any], system: str | None = None, image_end: str = "\n"
) -> RenderedConversation:
    """Renders messages with the chat template, up to the start of the answer.

    If the texts of a message hold one `<image>` mark for each of its images, the images go to these marks.
    """
    turns = content_as_items(list(messages))
    for turn in turns:
        if odd := [item["type"] for item in turn["content"] if item["type"] not in ("text", "image")]:
            raise ValueError(f"A message holds an item of type {odd[0]!r}; xGen-MM reads text and images only.")
        turn["content"] = place_images(turn["content"])
    if system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": [text_part(system)]})
    shown = [item.get("image") for turn in turns for item in turn["content"] if item["type"] == "image"]
    images = [open_image(image) for image in shown]
    # Texts of users and tasks are escaped first; the image token is inserted after that.
    turns = escape_messages(turns, processor.tokenizer)
    image = text_part(IMAGE_TOKEN + image_end)
    for turn in turns:
        turn["content"] = [image if item["type"] == "image" else item for item in turn["content"]]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, escape_special_tokens=False)
    return RenderedConversation(text, images)


def system_in_force(model: str, named: str | None) -> str | None:
    """Returns the named system turn, else that of a model's training prompts; None stands for the template's."""
    form = read_prompt_form(model) if named is None else None
    return system_turn(named) if form is None else form.system


def place_images(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts a message's images where its texts mark them with `<image>`."""
    images = [item for item in items if item["type"] == "image"]
    # The template itself writes a line break after an image.
    texts = [item["text"].replace(f"{IMAGE_TOKEN}\n", IMAGE_TOKEN) for item in items if item["type"] == "text"]
    marks = sum(text.count(IMAGE_TOKEN) for text in texts)
    if not marks or not images:
        return list(items)
    if marks != len(images):
        logger.warning("A text marks %d images, but comes with %d: the marks are removed.", marks, len(images))
        return [text_part(item["text"].replace(IMAGE_TOKEN, "")) if item["type"] == "text" else item for item in items]
    left = iter(images)
    pieces = [piece for text in texts for piece in split_at_marks(text)]
    return [next(left) if piece is None else text_part(piece) for piece in pieces]


class Answerer:
    """Renders and answers a harness's conversations with one model.

    `system` is the system turn (None: the template's), `image_end` follows each `<image>`. A prompt that is longer
    than the context gets an empty answer and is counted in `skipped` (`overlong` "skip"), or its longest text is cut
    from the front ("truncate"). With an `end_token`, only this token ends an answer, and the checkpoint's own end
    token is shown. If it is None, the checkpoint's end tokens and all control tokens end an answer.
    """

    def __init__(
        self,
        loaded: Loaded,
        system: str | None = None,
        image_end: str = "\n",
        image_mode: str | None = None,
        overlong: str = "skip",
        end_token: str | None = None,
    ):
        if overlong not in OVERLONG:
            raise ValueError(f"overlong is {overlong!r}; it must be one of {', '.join(OVERLONG)}.")
        self.loaded, self.system, self.image_end = loaded, system, image_end
        self.image_mode, self.overlong, self.skipped = image_mode, overlong, 0
        self.tokenizer, self.end_token = loaded.processor.tokenizer, end_token
        if end_token is not None:
            self.tokenizer = copy.deepcopy(self.tokenizer)
            self.tokenizer.eos_token, self.tokenizer.skip_control_tokens = end_token, False

    def converse(self, messages: Sequence[Any], room: int = 1) -> RenderedConversation:
        """Renders messages; handles a prompt that leaves no `room` tokens for the answer as `overlong` says."""
        turns = content_as_items(list(messages))
        while True:
            found = render(self.loaded.processor, turns, self.system, self.image_end)
            sizes = [(image.height, image.width) for image in found.images]
            length = prompt_length(self.loaded.processor, found.text, sizes, self.image_mode) + room
            excess = length - self.loaded.model.config.text_config.max_position_embeddings
            if excess <= 0:
                return found
            texts = [item for turn in turns for item in turn["content"] if item["type"] == "text"]
            longest = max(texts, key=lambda item: len(item["text"]), default=text_part(""))
            ids = self.loaded.processor.tokenizer(longest["text"])["input_ids"]
            if self.overlong == "skip" or len(ids) <= excess:
                break
            longest["text"] = self.loaded.processor.tokenizer.decode(ids[excess:])
        self.skipped += 1
        logger.warning("A prompt is %d tokens longer than the context; it is answered with an empty text.", excess)
        return RenderedConversation(found.text, found.images, fits=False)

    def answer(self, conversations: Sequence[RenderedConversation], decoding: Decoding | None = None) -> list[str]:
        """Answers one batch of conversations."""
        decoding = decoding or Decoding()
        fitting = [conversation for conversation in conversations if conversation.fits]
        answers: Iterator[str] = iter(())
        if fitting:
            options: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, **dict(decoding.options)}
            if self.end_token is not None:
                options["eos_token_id"] = self.tokenizer.eos_token_id
            if decoding.seed is not None:
                set_seed(decoding.seed)
            images = [image for conversation in fitting for image in conversation.images]
            inputs = encode_batch(self.loaded, [one.text for one in fitting], images, self.image_mode)
            answers = (self._read(ids, decoding) for ids in generate_rows(self.loaded, inputs, **options))
        return [next(answers) if conversation.fits else "" for conversation in conversations]

    def _read(self, ids: list[int], decoding: Decoding) -> str:
        if self.end_token is None:
            return cut_at(read_answer(self.tokenizer, ids), decoding.until)
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end)] if end in ids else ids  # the padding of a batch follows the end
        return cut_at(self.tokenizer.decode(ids, skip_special_tokens=True), (self.end_token, *decoding.until))


def cut_at(text: str, until: Sequence[str]) -> str:
    """Returns a text up to the first of the texts that end it."""
    for end in until:
        text = text.split(end)[0] if end else text
    return text.strip()


def in_batches(
    items: Sequence[Any], size: int, key: Callable[[Any], Any], group: Callable[[Any], Any]
) -> Iterator[list[int]]:
    """Splits items into batches that share their settings, the longest first; yields their indices."""
    groups: dict[Any, list[int]] = {}
    for index in sorted(range(len(items)), key=lambda index: key(items[index]), reverse=True):
        groups.setdefault(group(items[index]), []).append(index)
    for members in groups.values():
        yield from (members[start : start + size] for start in range(0, len(members), size))


class Gatherer:
    """Answers calls of several threads in batches of `batch_size`; waits up to `patience` seconds to fill one."""

    def __init__(self, answer: Callable[[list[Any]], list[Any]], batch_size: int, patience: float = 0.05):
        self.answer, self.batch_size, self.patience = answer, batch_size, patience
        self._waiting: queue.Queue[tuple[Any, Future]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name="gatherer").start()

    def __call__(self, item: Any) -> Any:
        """Waits for the answer to an item; raises what `answer` raised for its batch."""
        future: Future = Future()
        self._waiting.put((item, future))
        return future.result()

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            end = time.monotonic() + self.patience
            while len(batch) < self.batch_size:
                try:
                    batch.append(self._waiting.get(timeout=max(0.0, end - time.monotonic())))
                except queue.Empty:
                    break
            items, futures = zip(*batch, strict=True)
            try:
                for future, answer in zip(futures, self.answer(list(items)), strict=True):
                    future.set_result(answer)
            except BaseException as error:  # all callers of the batch get it; the thread continues
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
