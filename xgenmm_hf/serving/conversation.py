"""A chat of several turns with images, whose answers can be interrupted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from xgenmm_hf.conversion.files import write_json
from xgenmm_hf.inference.asking import answer_inputs
from xgenmm_hf.inference.feature_cache import DEFAULT_BYTES, FeatureCache
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import render_prompt


@dataclass(frozen=True)
class Turn:
    """One turn of a chat: who speaks (``system``, ``user`` or ``assistant``), the text, and the images it shows."""

    role: str
    text: str
    images: list[tuple[str, Image.Image]] = field(default_factory=list)

    def as_message(self) -> dict[str, Any]:
        """Returns the turn as a message for the processor."""
        images = [{"type": "image", "image": image} for _, image in self.images]
        return {"role": self.role, "content": [*images, {"type": "text", "text": self.text}]}


class Conversation:
    """A chat with a model.

    `system` is the text of a system turn (empty for none, None for the checkpoint's own). `max_bytes` limits the image
    tokens kept between turns (see `FeatureCache`). `stop` and `options` are those of `ask`.
    """

    def __init__(
        self,
        loaded: Loaded,
        system: str | None = None,
        max_new_tokens: int = 512,
        max_bytes: int = DEFAULT_BYTES,
        image_mode: str | None = None,
        stop: Sequence[str] = (),
        **options: Any,
    ):
        self._loaded, self._system, self._image_mode = loaded, system, image_mode
        self._options = {"max_new_tokens": max_new_tokens, "stop": stop, **options}
        self._cache = FeatureCache(loaded.model, loaded.processor, max_bytes)
        self.reset()

    def reset(self) -> None:
        """Removes all turns except the system turn."""
        self.turns: list[Turn] = [] if self._system is None else [Turn("system", self._system)]

    def answer(self, text: str, images: list[tuple[str, Image.Image]], on_text: Callable[[str], None]) -> str:
        """Answers the user's next turn; after Ctrl-C, the text generated so far is the answer.

        If there is no text yet, the answer is empty and the turns do not change.
        """
        turns = [*self.turns, Turn("user", text, images)]
        said: list[str] = []

        def listen(piece: str) -> None:
            said.append(piece)
            on_text(piece)

        try:
            answer = answer_inputs(self._loaded, self._inputs(turns), text, on_text=listen, **self._options).text
        except KeyboardInterrupt:
            answer = "".join(said).strip()
            if not answer:
                return ""
        self.turns = [*turns, Turn("assistant", answer)]
        return answer

    def _inputs(self, turns: list[Turn]) -> Any:
        messages = [turn.as_message() for turn in turns]
        text = render_prompt(self._loaded.processor, messages)
        return self._cache.prepare(text, [image for turn in turns for _, image in turn.images], self._image_mode)

    def save(self, path: Path) -> None:
        """Writes the chat as JSON: messages with text and the images' names."""
        messages = []
        for turn in self.turns:
            shown = {"images": [name for name, _ in turn.images]} if turn.images else {}
            messages.append({"role": turn.role, "content": turn.text, **shown})
        try:
            write_json(path, {"messages": messages})
        except OSError as error:
            raise ValueError(f"The chat cannot be written to {path} ({error.strerror}): give another file.") from None
