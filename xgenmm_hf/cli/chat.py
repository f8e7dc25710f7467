"""``xgenmm chat``: a chat about images in the terminal."""

import select
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.ask import open_argument
from xgenmm_hf.cli.console import load_model
from xgenmm_hf.cli.errors import error_line


if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from xgenmm_hf.serving.conversation import Conversation

HELP = """\
/image FILE...   show images with what you say next
/reset           start over, without the images
/save FILE       write the chat as JSON
/quit            leave (or Ctrl-D); Ctrl-C cuts an answer off, at the prompt it clears the line and twice leaves"""
IMAGE_WIDTH = 40
# A second Ctrl-C within the first time leaves; lines that follow each other within the second belong to one paste.
LEAVE_SECONDS, PASTE_SECONDS = 2.0, 0.05


def chat(
    images: Annotated[list[str] | None, Argument(metavar="[IMAGE]...", help="Images to begin with.")] = None,
    model: options.Model = TINY_MODEL,
    max_new_tokens: options.AnswerTokens = 512,
    system: options.System = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    stop: options.Stop = None,
    image_mode: options.Images = None,
    allow_remote: options.AllowRemote = False,
    kept_mib: options.KeptMib = 1024,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    load_in: options.LoadIn = None,
) -> None:
    """Chat with a model about images in the terminal."""
    from rich.console import Console

    from xgenmm_hf.inference.source import resolve_checkpoint

    opened = open_images(images or [], allow_remote)
    source = resolve_checkpoint(model)

    from xgenmm_hf.inference.asking import sampling_options
    from xgenmm_hf.inference.prompts import system_turn
    from xgenmm_hf.serving.conversation import Conversation

    loaded = load_model(source, dtype, device, load_in)
    turn, drawn = system_turn(system), sampling_options(temperature, top_p, seed)
    conversation = Conversation(loaded, turn, max_new_tokens, kept_mib << 20, image_mode, stop or (), **drawn)
    session = Session(conversation, Console(highlight=False), allow_remote)
    print(f"Computing in {loaded.dtype}.", file=sys.stderr)
    session.show(opened)
    session.run()


def open_images(paths: list[str], allow_remote: bool) -> "list[tuple[str, Image.Image]]":
    """Opens images by their names."""
    if "-" in paths:
        raise ValueError("A chat reads what you say from stdin: give its images as files, or use xgenmm ask.")
    return [(path, open_argument(path, "", allow_remote)) for path in paths]


class Session:
    """A chat at the terminal."""

    def __init__(self, conversation: "Conversation", console: "Console", allow_remote: bool = False):
        self._conversation, self._console, self._allow_remote = conversation, console, allow_remote
        self._images: list[tuple[str, Image.Image]] = []

    def run(self) -> None:
        """Reads lines until the user leaves."""
        with suppress(ImportError):  # line editing and history, where Python has it
            import readline  # noqa: F401
        if sys.stdin.isatty():
            self._note("Ask something, or /help.")
        interrupted = float("-inf")
        while True:
            try:
                line = self._read_message()
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print()
                if time.monotonic() - interrupted < LEAVE_SECONDS:
                    return
                interrupted = time.monotonic()
                self._note("Ctrl-C again leaves; /save FILE keeps the chat.")
                continue
            if line in ("/quit", "/exit"):
                return
            try:
                self._take(line)
            except (ValueError, OSError) as error:
                self._note(f"error: {error_line(error)}")

    def _read_message(self) -> str:
        """Reads what the user says; lines that were pasted together are one message."""
        typed = sys.stdin.isatty()
        lines = [input("> " if typed else "")]  # not the console's: line editing has to know the prompt
        while typed and select.select([sys.stdin], [], [], PASTE_SECONDS)[0]:
            lines.append(input())
        return "\n".join(lines).strip()

    def show(self, images: "list[tuple[str, Image.Image]]") -> None:
        """Adds images to the next turn and shows them where the terminal can."""
        for name, image in images:
            self._images.append((name, image))
            self._draw(image)
            self._note(f"{name}, {image.width} x {image.height}: shown with what you say next.")

    def _take(self, line: str) -> None:
        """Takes one line: a command, or something to say."""
        command, _, rest = line.partition(" ")
        if not line:
            return
        if not line.startswith("/"):
            self._say(line)
        elif command == "/image":
            if not rest:
                raise ValueError("/image needs the path of an image.")
            self.show(open_images(shlex.split(rest), self._allow_remote))
        elif command == "/reset":
            shown = [image for turn in self._conversation.turns for image in turn.images]
            left = dict.fromkeys(name for name, _ in [*shown, *self._images])
            self._conversation.reset()
            self._images = []
            self._note(f"A new chat{', without ' + ', '.join(left) if left else ''}.")
        elif command == "/save":
            self._save(rest.strip())
        elif command == "/help":
            self._note(HELP)
        else:
            raise ValueError(f"There is no command {command}; /help lists them.")

    def _say(self, text: str) -> None:
        before = self._conversation.turns
        self._conversation.answer(text, self._images, self._write)
        self._console.print()
        if self._conversation.turns is before:
            self._note("Interrupted before the answer began: the question is not kept.")
        else:
            self._images = []

    def _save(self, path: str) -> None:
        if not path:
            raise ValueError("/save needs a file's name.")
        if Path(path).expanduser().exists() and not self._agrees(f"{path} exists. Replace it? [y/N] "):
            raise ValueError(f"{path} was left as it was: give another file.")
        self._conversation.save(Path(path).expanduser())
        self._note(f"Saved to {path}.")

    def _agrees(self, question: str) -> bool:
        """Asks at a terminal; elsewhere the answer is no."""
        return sys.stdin.isatty() and self._console.input(question, markup=False).strip().lower() in ("y", "yes")

    def _write(self, text: str) -> None:
        """Shows a piece of an answer without control characters, which the terminal would execute."""
        shown = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
        self._console.print(shown, end="", markup=False, highlight=False, soft_wrap=True)

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)

    def _draw(self, image: "Image.Image") -> None:
        """Draws an image in the terminal's best way; without a terminal or textual-image there is none."""
        if not self._console.is_terminal:
            return
        with suppress(ImportError):
            from textual_image.renderable import Image

            self._console.print(Image(image, width=min(IMAGE_WIDTH, self._console.width)))
