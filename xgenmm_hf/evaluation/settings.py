"""How a task is asked."""

from dataclasses import dataclass, replace

from xgenmm_hf.evaluation.few_shot import PROTOCOLS, Protocol
from xgenmm_hf.inference.prompt_form import PromptForm


FORMS = ("chat", "base")
ANSWER_TOKENS = {"vqa": 32, "caption": 64}
DEFAULT_ANSWER_TOKENS = 256
_LOWEST = {"batch_size": 1, "max_new_tokens": 1, "limit": 1, "shots": 0, "kept_mib": 0}


@dataclass(frozen=True)
class AskSettings:
    """How a task is asked.

    Args:
        batch_size: Prompts computed together; it changes no answer.
        max_new_tokens: Longest answer in tokens; None: what the protocol, or else the prompt style, needs.
        form: "chat" (instruct models) or "base" (base models); None: base where there are shots or another protocol.
        protocol: How base models are asked and answers cut, a name in `PROTOCOLS`.
        system: Text of the system turn in chats; None: what the checkpoint's chat template has.
        suffix: Text behind each question in chats; None: the prompt style's.
        tuned_suffix: What the model's training rows had in place of the prompt style's; None: not known.
        instruction: What an image is shown with where the sample has no text (captions); None: the prompt style's.
        shots: Examples in the prompt.
        seed: Seed of the choice of examples.
        limit: Ask the first samples only.
        image_mode: Mode of the image processor; None: the checkpoint's.
        kept_mib: MiB of images' tokens that are kept, for tasks that ask about an image more than once; 0: none.

    Raises:
        ValueError: If they contradict each other.
    """

    batch_size: int = 8
    max_new_tokens: int | None = None
    form: str | None = None
    protocol: str = "xgenmm"
    system: str | None = None
    suffix: str | None = None
    tuned_suffix: str | None = None
    instruction: str | None = None
    shots: int = 0
    seed: int = 0
    limit: int | None = None
    image_mode: str | None = None
    kept_mib: int = 0

    def __post_init__(self):
        for name, known in (("form", (None, *FORMS)), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in known:
                listed = ", ".join(one for one in known if one)
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {listed}.")
        if self.form == "chat" and (self.shots or self.protocol != "xgenmm"):
            raise ValueError("Examples and other protocols belong to the base form: leave out form='chat'.")
        if self.prompt_form == "base" and not (self.system is None and self.suffix is None):
            raise ValueError("The base form has no system turn and no suffix: leave them out, or set form='chat'.")
        for name, least in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more.")

    def in_form(self, form: PromptForm | None) -> "AskSettings":
        """Returns the settings for a model that was tuned on prompts of a form; what was asked for stays."""
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
        """Returns the longest answer in tokens for a prompt style."""
        usual = {**ANSWER_TOKENS, **self.rules.answer_tokens}
        return self.max_new_tokens or usual.get(style, DEFAULT_ANSWER_TOKENS)
