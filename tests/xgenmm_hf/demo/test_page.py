"""The page in a real browser: upload, ask, read the answer; and what the other tabs show."""

import json
import time
import urllib.request
from pathlib import Path

import pytest
from browser import Page, find_browser
from PIL import Image

from xgenmm_hf.inference.asking import ask


IMAGES = Path(__file__).resolve().parents[3] / "xgenmm_hf" / "assets" / "images"
PATIENCE = 60


@pytest.fixture(scope="module")
def address(loaded, serve_page):
    from xgenmm_hf.demo.page import build_page

    with serve_page(build_page(loaded, "a <b>name</b>")) as url:
        yield url


def wait_for(page: Page, script: str):
    """Runs a script until it gives something, and returns that."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := page.run(script):
            return found
        time.sleep(0.1)
    raise TimeoutError(
        f"{script} gave nothing within {PATIENCE} s; the page says: {page.run('document.body.innerText')}"
    )


def upload(page: Page, where: str, *files: Path) -> None:
    wait_for(page, f"!!document.querySelector('{where} input[type=file]')")
    found = page.call("Runtime.evaluate", expression=f"document.querySelector('{where} input[type=file]')")
    names = [str(file) for file in files]
    page.call("DOM.setFileInputFiles", files=names, objectId=found["result"]["objectId"])


def type_and_send(page: Page, where: str, text: str) -> None:
    page.run(f"document.querySelector('{where} textarea').focus()")
    page.call("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        page.call("Input.dispatchKeyEvent", type=kind, **key, **({"text": "\r"} if kind == "keyDown" else {}))


def open_tab(page: Page, name: str) -> None:
    page.run(f"[...document.querySelectorAll('button[role=tab]')].find(tab => tab.innerText == '{name}').click()")


def answers(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#chat .bot.message')].map(bubble => bubble.innerText.trim())")


def wait_for_answer(page: Page, expected: list[str]) -> None:
    end = time.monotonic() + PATIENCE
    while answers(page) != expected:
        assert time.monotonic() < end, f"{answers(page)} instead of {expected}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs Chromium")
def test_in_a_browser(address, browser, loaded, tmp_path):
    cafe = IMAGES / "2-cafe.png"
    image = Image.open(cafe).convert("RGB")
    with browser.page() as page:
        page.call("Page.navigate", url=address)
        wait_for(page, "!!document.querySelector('#question textarea')")

        upload(page, "#question", cafe)
        wait_for(page, "!!document.querySelector('#question .thumbnails img')")
        type_and_send(page, "#question", "What word is written in the picture?")
        first = ask(loaded, [image], "What word is written in the picture?").text
        wait_for_answer(page, [first])
        wait_for(page, "document.querySelectorAll('#chat .user img').length == 1")
        page.screenshot(tmp_path / "chat.png")
        assert Image.open(tmp_path / "chat.png").convert("L").getextrema() != (255, 255)

        wait_for(page, "!document.querySelector('#question textarea').disabled")
        type_and_send(page, "#question", "How many shapes are there?")
        wait_for(page, "document.querySelectorAll('#chat .bot.message').length == 2")

        open_tab(page, "Tiles")
        upload(page, "#tiles-image", cafe)
        assert "4 x 16" in wait_for(page, "document.querySelector('#tiles-cost textarea')?.value")

        open_tab(page, "Attention")
        upload(page, "#attention-image", cafe)
        wait_for(page, "!!document.querySelector('#attention-image img')")
        page.run("document.querySelector('#attention-go').click()")
        told = wait_for(page, "document.querySelector('#attention-answer textarea')?.value")
        assert told.startswith(ask(loaded, [image], "Describe this image.", max_new_tokens=128).text)
        wait_for(page, "!!document.querySelector('#attention-overlay img')")

        open_tab(page, "Few-shot")
        wait_for(page, "!!document.querySelector('#few-shot-go')")
        page.run("document.querySelector('#few-shot-go').click()")
        wait_for(page, "document.querySelector('#few-shot-text textarea')?.value")

        assert "<b>name</b>" in page.run("document.querySelector('#facts').innerText")
        assert [url for url in page.addresses() if not url.startswith(address) and "://" in url] == []
        # Scripts of Gradio's own may complain (6.17's do); nothing may fail to load.
        assert [event for event in page.complaints() if event["method"] == "Log.entryAdded"] == []


def call(address: str, name: str, *values) -> str:
    """Calls a function of the page over its API and returns the closing event."""
    body = json.dumps({"data": list(values)}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/{name}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=PATIENCE) as reply:
        return reply.read().decode()


def test_files_of_the_server_cannot_be_asked_about(address, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    reply = call(address, "tiles", {"path": str(secret), "meta": {"_type": "gradio.FileData"}})
    assert "event: error" in reply and "tokens" not in reply
