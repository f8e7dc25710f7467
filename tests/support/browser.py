"""A headless Chromium for tests, driven over its debugging pipe: nothing to install besides the browser itself."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,900",
    "--remote-debugging-pipe",
)
PATIENCE = 60


def find_browser() -> str | None:
    """Returns the path of a Chromium or Chrome on this machine; the variable CHROME names another one."""
    return os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running browser. Messages are JSON, each ended by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._rest, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Calls a method of the debugging protocol, of a page where its session is given, and returns the result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    @contextmanager
    def page(self) -> Iterator["Page"]:
        """Opens an empty page; it is closed afterwards, with its connections."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        try:
            yield Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        finally:
            self.call("Target.closeTarget", targetId=target)

    def _next(self) -> dict[str, Any]:
        """Reads the next message."""
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], PATIENCE)[0]:
                raise TimeoutError("The browser does not answer.")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("The browser ended.")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A page of a browser."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the debugging protocol and returns its result."""
        return self._browser.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """Runs JavaScript in the page and returns its value."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def addresses(self) -> list[str]:
        """Returns what the page asked for since it was opened, embedded data left out."""
        events = [event for event in self._browser.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in events]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[dict[str, Any]]:
        """Returns errors of the page's scripts and of its loading."""
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self._browser.events if event.get("method") in wrong]

    def screenshot(self, file: Path) -> None:
        """Writes what the page looks like as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def _move_up(descriptor: int) -> int:
    """Gives a file descriptor a number of 10 or more."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Starts a browser; it and its files are gone afterwards."""
    # Numbers of 10 and more, so that none is 3 or 4.
    read_by_browser, to_browser = map(_move_up, os.pipe())
    from_browser, written_by_browser = map(_move_up, os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads its commands from descriptor 3 and answers on 4.
        redirect = f'exec "$@" 3<&{read_by_browser} 4>&{written_by_browser}'
        process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(read_by_browser, written_by_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
