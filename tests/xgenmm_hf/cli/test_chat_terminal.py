"""`xgenmm chat` in a real pseudo-terminal: Ctrl-C, pasted lines, files that exist."""

import json
import os
import pty
import select
import time
from pathlib import Path

import forked
import pytest


class Terminal:
    """A program in a pseudo-terminal; each `read_until` goes on behind what the one before it found."""

    def __init__(self, *command: str):
        self.fd, terminal = pty.openpty()
        self.program = forked.Program(command, env={**os.environ, "TERM": "dumb"}, terminal=os.ttyname(terminal))
        self.text, self.place, self.terminal = "", 0, terminal

    def read_until(self, wanted: str, seconds: float = 300) -> str:
        end, start = time.monotonic() + seconds, self.place
        while wanted not in self.text[start:]:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text[start:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended before {wanted!r}: {self.text[start:]!r}") from None
        self.place = self.text.index(wanted, start) + len(wanted)
        return self.text[start : self.place]

    def interrupt(self) -> None:
        """Sends Ctrl-C once the program waits for a key: Python misses one between its prompt and that wait."""
        stat, asleep = Path(f"/proc/{self.program.pid}/stat"), 0
        while asleep < 10:
            asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
            time.sleep(0.02)
        self.send("\x03")

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self) -> int:
        with self.program:
            return self.program.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a program waits is read from Linux's /proc")
def test_a_chat_survives_ctrl_c_and_pastes_and_asks_before_it_replaces_a_file(tmp_path):
    file = tmp_path / "chat.json"
    file.write_text("mine")
    # on a slow machine two keys may be seconds apart, and two pasted lines as well; background jobs ignore Ctrl-C
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from xgenmm_hf.cli import app, chat; chat.LEAVE_SECONDS, chat.PASTE_SECONDS = {}, 0.3; app.main()"
    )
    terminal = Terminal("-c", start.format(-1), "chat", "--max-new-tokens", "3")
    terminal.read_until("> ")
    for _ in range(2):  # the second one comes too late to leave
        terminal.send("half a line")
        terminal.interrupt()
        terminal.read_until("Ctrl-C again leaves; /save FILE keeps the chat.")
        terminal.read_until("> ")
    terminal.send("What is\nthis?\n")
    terminal.read_until("this?\r\n")
    terminal.read_until("\n> ")
    terminal.send(f"/save {file}\n")
    terminal.read_until("Replace it? [y/N] ")
    terminal.send("n\n")
    terminal.read_until("left as it was")
    assert file.read_text() == "mine"
    terminal.read_until("\n> ")
    terminal.send(f"/save {file}\n")
    terminal.read_until("Replace it? [y/N] ")
    terminal.send("y\n")
    terminal.read_until("Saved to")
    messages = [one for one in json.loads(file.read_text())["messages"] if one["role"] == "user"]
    assert [one["content"] for one in messages] == ["What is\nthis?"]
    terminal.read_until("\n> ")
    terminal.send("/quit\n")
    assert terminal.wait() == 0
    terminal = Terminal("-c", start.format(1000), "chat")
    terminal.read_until("> ")
    terminal.interrupt()
    terminal.read_until("Ctrl-C again leaves; /save FILE keeps the chat.")
    terminal.read_until("> ")
    terminal.interrupt()
    assert terminal.wait() == 0
