"""How a task is asked: settings, the prompts of samples with their lengths, and a description of the prompt.

Two forms: "chat" is that of the instruct models (the checkpoint's chat template), "base" that of the base models, with
or without examples (see `few_shot`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from xgenmm_hf.data.encoding import count_tiles_and_tokens, render_content
from xgenmm_hf.data.image_refs import image_key, image_size
from xgenmm_hf.evaluation.few_shot import PROTOCOLS, Protocol, base_content, parts_of
from xgenmm_hf.evaluation.samples import Sample, Task
from xgenmm_hf.inference.prompt_form import PromptForm


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


# What the usual harnesses append to a question.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
CHOOSE = "\nAnswer with the option's letter from the given choices directly."
CHAT_TEXTS = {"caption": "Describe the image in one short sentence."}
FORMS = ("chat", "base")
ANSWER_TOKENS = {"vqa": 32, "caption": 64}
DEFAULT_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class AskSettings:
    """How a task is asked; settings that contradict each other raise a `ValueError`."""

    batch_size: int = 8  # prompts computed together; it changes no answer
    max_new_tokens: int | None = None  # None: what the protocol, or else the prompt style, needs
    form: str | None = None  # one of FORMS; None: base where there are shots or another protocol
    protocol: str = "xgenmm"  # how base models are asked and answers cut
    system: str | None = None  # text of the system turn in chats; None: what the checkpoint's chat template has
    suffix: str | None = None  # text after each question in chats; None: the prompt style's
    tuned_suffix: str | None = None  # what the model's training rows had in place of the prompt style's
    instruction: str | None = None  # for samples without a text (captions); None: the prompt style's
    shots: int = 0  # examples in the prompt
    seed: int = 0  # for the choice of examples
    limit: int | None = None  # ask the first samples only
    image_mode: str | None = None  # of the image processor; None: the checkpoint's
    kept_mib: int = 0  # MiB of image tokens that are kept, for tasks that ask about an image more than once

    def __post_init__(self) -> None:
        for name, known in (("form", (None, *FORMS)), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in known:
                listed = ", ".join(one for one in known if one)
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {listed}.")
        if self.form == "chat" and (self.shots or self.protocol != "xgenmm"):
            raise ValueError("Examples and other protocols belong to the base form: leave out form='chat'.")
        if self.prompt_form == "base" and not (self.system is None and self.suffix is None):
            raise ValueError("The base form has no system turn and no suffix: leave them out, or set form='chat'.")
        if self.batch_size < 1 or self.shots < 0:
            raise ValueError(f"batch_size is {self.batch_size}, shots is {self.shots}; at least 1 and 0 are needed.")

    def in_form(self, form: PromptForm | None) -> "AskSettings":
        """Returns the settings for a model that was tuned on prompts of a form; settings that are given stay."""
        if form is None or self.prompt_form == "base":
            return self
        return replace(self, tuned_suffix=form.suffix, system=form.system if self.system is None else self.system)

    @property
    def prompt_form(self) -> str:
        """The form of the prompts, "chat" or "base"."""
        return self.form or ("base" if self.shots or self.protocol != "xgenmm" else "chat")

    @property
    def rules(self) -> Protocol:
        """The protocol that the name stands for."""
        return PROTOCOLS[self.protocol]

    def answer_tokens(self, style: str) -> int:
        """Returns the maximum number of tokens of an answer for a prompt style."""
        usual = {**ANSWER_TOKENS, **self.rules.answer_tokens}
        return self.max_new_tokens or usual.get(style, DEFAULT_ANSWER_TOKENS)


class AskedSample(NamedTuple):
    """A sample with its prompt and its examples' ids, and the model's answer once it was asked.

    The key is a digest of everything that decides the answer.
    """

    sample: Sample
    prompt: str
    shots: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    num_tokens: int = 0
    key: str = ""
    answer: str = ""


def suffix_of(sample: Sample, style: str, settings: AskSettings) -> str:
    """Returns the text behind a sample's question in the chat form."""
    usual = CHOOSE if "choices" in sample.options else SHORT_ANSWER if style == "vqa" else ""
    if usual and settings.tuned_suffix is not None:
        usual = "" if sample.text.endswith(settings.tuned_suffix) else settings.tuned_suffix
    return usual if settings.suffix is None else settings.suffix


def render_sample(
    processor: "XGenMMProcessor", sample: Sample, shots: Sequence[Sample], style: str, settings: AskSettings
) -> str:
    """Renders a sample's prompt; control tokens that its texts spell out stay plain text.

    The system turn of a chat is the template's unless the settings have one.
    """
    if settings.prompt_form == "chat":
        text = sample.text or settings.instruction or CHAT_TEXTS.get(style, "")
        turns: list[Any] = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        turns.append({"role": "user", "content": parts_of(sample, text + suffix_of(sample, style, settings))})
        return processor.apply_chat_template(turns, add_generation_prompt=True)
    content = base_content(sample, shots, style, settings.rules, settings.instruction)
    images = [image for one in (*shots, sample) for image in one.images]
    return render_content(processor, {"content": content, "images": images})


def prompt_length(
    processor: "XGenMMProcessor", text: str, sizes: Sequence[tuple[int, int]], image_mode: str | None = None
) -> int:
    """Returns the number of tokens of a prompt from its text and the (height, width) of its images."""
    counts = count_tiles_and_tokens(processor, list(sizes), image_mode)
    return len(processor.tokenizer(text)["input_ids"]) - len(sizes) + sum(tokens for _, tokens in counts)


def prepare(
    processor: "XGenMMProcessor",
    sample: Sample,
    shots: Sequence[Sample],
    text: str,
    identity: Mapping[str, Any],
    image_mode: str | None = None,
) -> AskedSample:
    """Measures a prompt, and makes the key of everything that decides its answer."""
    images = tuple(image for one in (*shots, sample) for image in one.images)
    num_tokens = prompt_length(processor, text, [image_size(image) for image in images], image_mode)
    decisive = json.dumps([dict(identity), sample.id, text, [image_key(image) for image in images]], sort_keys=True)
    key = hashlib.sha256(decisive.encode()).hexdigest()[:32]
    return AskedSample(sample, text, tuple(shot.id for shot in shots), images, num_tokens, key)


def describe_prompt(processor: "XGenMMProcessor", task: Task, settings: AskSettings) -> dict[str, Any]:
    """Describes the prompt of a task, for the start of a run and for its result."""
    style, chat, first = task.prompt_style, settings.prompt_form == "chat", task.samples[0]
    marks = "".join("<image>" for _ in first.images) if first.marked else ""
    plain = replace(first, text=f"{marks}{{question}}" if first.text else "")
    written = CHAT_TEXTS.get(style, "") if chat else ""
    return {
        "form": settings.prompt_form,
        "protocol": settings.protocol,
        "shots": settings.shots,
        "seed": settings.seed if settings.shots else None,
        "suffixes": sorted({suffix_of(sample, style, settings) for sample in task.samples}) if chat else [],
        "instruction": written if settings.instruction is None else settings.instruction,
        "rendered": render_sample(processor, plain, [], style, settings),
    }
