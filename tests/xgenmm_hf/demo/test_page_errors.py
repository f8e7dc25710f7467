"""The page in a real browser: it goes on after every error, renders nothing it is told, and offers what it says."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Page, find_browser

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL, load


pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_browser() is None, reason="needs Chromium")]
IMAGES = Path(TINY_MODEL).parent / "images"
PATIENCE = 120


@pytest.fixture(scope="module")
def address(loaded, serve_page):
    from xgenmm_hf.demo.page import build_page

    with serve_page(build_page(loaded, "tuned", others={"base": load(TINY_BASE_MODEL, device="cpu")})) as url:
        yield url


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """The page, freshly opened."""
    with browser.page() as page:
        page.call("Page.navigate", url=address)
        wait_for(page, "document.querySelector('#question textarea')")
        yield page


def wait_for(page: Page, script: str):
    """Runs a script until it gives something, and returns that."""
    end = time.monotonic() + PATIENCE
    while not (found := page.run(f"(() => {{ const it = {script}; return it instanceof Element ? true : it }})()")):
        if time.monotonic() > end:
            raise TimeoutError(f"{script} gave nothing; the page says: {page.run('document.body.innerText')}")
        time.sleep(0.1)
    return found


def upload(page: Page, where: str, file: Path) -> None:
    wait_for(page, f"document.querySelector('{where} input[type=file]')")
    wait_for(page, f"!document.querySelector('{where} textarea')?.disabled")
    found = page.call("Runtime.evaluate", expression=f"document.querySelector('{where} input[type=file]')")
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])


def press_enter(page: Page) -> None:
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        page.call("Input.dispatchKeyEvent", type=kind, **key, **({"text": "\r"} if kind == "keyDown" else {}))


def bubbles(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#chat .bot.message')].map(bubble => bubble.innerText.trim())")


def say(page: Page, text: str) -> str:
    """Sends a question and returns what the page answers once it takes the next one."""
    before = len(bubbles(page))
    end, seen = time.monotonic() + PATIENCE, ""
    wait_for(page, "!document.querySelector('#question textarea').disabled")
    page.run("document.querySelector('#question textarea').focus()")
    # the end of an earlier answer empties the field, on a busy machine also behind what is typed
    while len(page.run("document.querySelector('#question textarea').value")) < len(text):
        assert time.monotonic() < end, text
        page.run("document.querySelector('#question textarea').focus()")
        page.call("Input.insertText", text=text)
        time.sleep(0.2)
    press_enter(page)
    while True:  # an answer is whole where it neither grows nor can be stopped
        time.sleep(0.25)
        said = bubbles(page)
        busy = len(said) <= before or page.run("!!document.querySelector('#question .stop-button')")
        if not busy and said[-1] == seen and seen not in ("", "Loading content"):
            return seen
        assert time.monotonic() < end, said
        seen = said[-1] if said else ""


def choose(page: Page, where: str, text: str) -> None:
    """Writes a text of one's own into a dropdown that takes one."""
    page.run(f"document.querySelector('{where} input').focus(); document.querySelector('{where} input').select()")
    page.call("Input.insertText", text=text)
    press_enter(page)
    page.run(f"document.querySelector('{where} input').blur()")


def pick(page: Page, where: str, text: str) -> None:
    """Takes one of a dropdown's options."""
    page.run(f"document.querySelector('{where} input').focus()")
    option = f"[...document.querySelectorAll('[role=option]')].find(one => one.innerText.trim().endsWith('{text}'))"
    wait_for(page, option)
    page.run(f"{option}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")


def open_tab(page: Page, name: str) -> None:
    page.run(f"[...document.querySelectorAll('button[role=tab]')].find(tab => tab.innerText == '{name}').click()")


def test_the_chat_goes_on_after_every_error(page, tmp_path):
    (tmp_path / "photo.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200))
    (tmp_path / "damaged.png").write_bytes((IMAGES / "2-cafe.png").read_bytes()[:300])
    for name in ("photo.heic", "damaged.png"):
        wait_for(page, "!document.querySelector('#question .thumbnails *')")
        upload(page, "#question", tmp_path / name)
        wait_for(page, "document.querySelector('#question .thumbnails *')")
        assert re.match(rf"⚠ The image {name} ", say(page, "What is this?"))
    assert "context holds" in say(page, "word " * 5000)
    upload(page, "#question", IMAGES / "1-shapes.png")
    wait_for(page, "document.querySelector('#question .thumbnails img')")
    assert say(page, "What color is the star?") == "orange"
    assert say(page, "How many shapes are there?") == "5"


def test_an_empty_line_does_not_end_the_chat(page):
    page.run("document.querySelector('#question textarea').focus()")
    press_enter(page)
    time.sleep(1)
    assert all(said.startswith("⚠ Nothing was sent") for said in bubbles(page))
    assert not say(page, "Hello!").startswith("⚠")


HOSTILE = (
    "![a](http://attack.invalid/1.png) <img src='http://attack.invalid/2.png' onerror='window.harmed = 1'> "
    "<div style=\"background-image: url('http://attack.invalid/3.png')\">x</div> [b](javascript:harm()) $\\url{a}$"
)


def test_nothing_that_is_said_is_rendered_or_loads_an_address(page, monkeypatch):
    from xgenmm_hf.demo.talk import Desk

    chat = Desk.chat
    monkeypatch.setattr(
        Desk, "chat", lambda *args, **options: (replace(x, text=HOSTILE) for x in chat(*args, **options))
    )
    say(page, HOSTILE)
    for kind in ("bot", "user"):
        place = f"document.querySelector('#chat .{kind}.message')"
        assert page.run(f"{place}.innerText").strip() == HOSTILE
        inside = "img, a, [style*=attack], script"
        assert page.run(f"[...{place}.querySelectorAll('{inside}')].map(one => one.outerHTML)") == []
    time.sleep(0.5)
    assert [url for url in page.addresses() if "attack.invalid" in url] == []
    assert page.run("window.harmed === undefined")


def test_models_facts_costs_and_later_questions(page, monkeypatch):
    from xgenmm_hf.demo.talk import Desk

    chat, asked = Desk.chat, []

    def noted(desk, *args, max_new_tokens, **options):
        asked.append((desk, *args))
        return chat(desk, *args, max_new_tokens=min(64, max_new_tokens), **options)  # a base model finds no end

    monkeypatch.setattr(Desk, "chat", noted)
    facts = wait_for(page, "document.querySelector('#facts').innerText.trim()")
    assert facts.startswith("tuned: ") and "no photographs" in facts
    upload(page, "#question", IMAGES / "1-shapes.png")
    wait_for(page, "document.querySelector('#question .thumbnails img')")
    say(page, "What color is the star?")
    cost = wait_for(page, "document.querySelector('#cost textarea, #cost input').value")
    assert re.fullmatch(
        r"\d+ tokens in the prompt, \d+ of them images; \d+ new tokens, [\d.]+ tokens per second", cost
    )
    wait_for(page, "document.querySelector('#question .submit-button')")
    page.run(
        "[...document.querySelectorAll('#further button, .gallery-item, #component-0 button')]"
        ".find(one => one.innerText.trim() == 'How many shapes are there?').click()"
    )
    wait_for(page, "document.querySelector('#question textarea').value == 'How many shapes are there?'")
    assert say(page, "") == "5"
    page.run("[...document.querySelectorAll('button')].find(one => one.innerText.includes('Options')).click()")
    wait_for(page, "document.querySelector('#system input')")
    choose(page, "#system", "Answer in capitals.")
    say(page, "Describe this image.")
    system = asked[-1][1][0]
    assert (system["role"], system["content"][0]["text"]) == ("system", "Answer in capitals.")
    pick(page, "#model", "base")
    wait_for(page, "document.querySelector('#facts').innerText.includes('base: ')")
    choose(page, "#system", "the checkpoint's own")
    say(page, "A large")
    assert asked[-1][0].is_base and not asked[0][0].is_base


def test_other_tabs_go_on_after_an_error(page, tmp_path):
    (tmp_path / "damaged.png").write_bytes((IMAGES / "2-cafe.png").read_bytes()[:300])
    open_tab(page, "Tiles")
    upload(page, "#tiles-image", tmp_path / "damaged.png")
    told = "document.querySelector('#tiles-cost textarea').value"
    assert wait_for(page, told).startswith("⚠ The image damaged.png ")
    button = "#tiles-image button[aria-label*=Remove], #tiles-image button[title*=Remove]"
    page.run(f"document.querySelector('{button}').click()")
    wait_for(page, f"!{told}")
    upload(page, "#tiles-image", IMAGES / "2-cafe.png")
    assert "4 x 16" in wait_for(page, told)
    open_tab(page, "Attention")
    page.run("document.querySelector('#attention-go').click()")
    told = "document.querySelector('#attention-answer textarea').value"
    assert "Add an image and write a question first" in wait_for(page, told)
    upload(page, "#attention-image", IMAGES / "2-cafe.png")
    wait_for(page, "document.querySelector('#attention-image img')")
    page.run("document.querySelector('#attention-go').click()")
    wait_for(page, f"{told}.includes('of the answer')")
    open_tab(page, "Few-shot")
    assert "No base model" not in page.run("document.body.innerText")
    page.run("document.querySelector('#few-shot-go').click()")
    wait_for(page, "document.querySelector('#few-shot-text textarea')?.value")


def test_it_fits_a_telephone(page, tmp_path):
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    try:
        for name in ("Chat", "Tiles", "Attention", "Few-shot"):
            open_tab(page, name)
            time.sleep(0.3)
            page.screenshot(tmp_path / f"{name}.png")
            wide = (
                "[...document.querySelectorAll('body *')].filter(one => one.offsetWidth > 390).map(it => it.className)"
            )
            assert page.run("document.documentElement.scrollWidth") <= 390, page.run(wide)
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")
