"""The HTML report: what is in it, and how it behaves in a real browser."""

import re

import pytest
from browser import find_browser, open_browser
from PIL import Image
from results_of import make_result

from xgenmm_hf.evaluation.html_report import THUMBNAIL, render_html, thumbnail, write_html
from xgenmm_hf.evaluation.samples import Sample


ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
SCORES = [1.0, 0.0, 0.6, 0.2]


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    Image.new("RGB", (900, 450), (200, 30, 30)).save(tmp_path / "red.png")
    red = {"bytes": None, "path": str(tmp_path / "red.png")}
    missing = {"bytes": None, "path": str(tmp_path / "a'><b>.png")}
    return [
        Sample("one", "What colour?", (red,), ("red", "red", "dark red"), "colour"),
        Sample("two", ATTACK, (red, Image.new("L", (40, 60))), (ATTACK,), "<count>"),
        Sample("three", "And here?", (missing,), (), "colour"),
        Sample("four", "No image?", (), ("no",), "<count>"),
    ]


@pytest.fixture
def result(samples):
    answers = ["red", ATTACK, "{{ 7 * 7 }}", "maybe"]
    return make_result(SCORES, categories=("colour", "<count>"), samples=samples, answers=answers)


def test_every_text_is_escaped(result, samples):
    html = render_html(result, samples)
    assert "<script>window" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;/script&gt;") == 6
    assert "{{ 7 * 7 }}" in html
    assert "red (2 times)" in html
    assert "&lt;b&gt;.png cannot be read" in html


def test_nothing_is_loaded_from_anywhere(result, samples):
    html = render_html(result, samples)
    assert "http" not in html.replace("http-equiv", "")
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', html))


def test_a_draw_of_samples_is_seeded(result, samples):
    shown = [re.findall(r"<dt>sample</dt><dd>(\w+)", render_html(result, samples, count=2, seed=s)) for s in (1, 1, 2)]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 2
    assert len(re.findall("<article", render_html(result, samples, count=9))) == 4


def test_thumbnails_are_small_and_keep_the_shape(samples):
    small = thumbnail(samples[0].images[0])
    assert (small["width"], small["height"]) == (THUMBNAIL, THUMBNAIL // 2)
    assert thumbnail(samples[2].images[0])["data"] == ""


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine: install one, or set CHROME")
def test_in_a_browser(result, samples, tmp_path):
    file = write_html(result, samples, tmp_path / "out")
    shown = "[...document.querySelectorAll('article')].filter(one => one.offsetHeight)"
    names = f"{shown}.map(one => one.querySelector('dd').textContent)"

    def choose(box: str, number: int) -> list[str]:
        """Chooses an option of a box as a user does, and returns the samples that are left."""
        page.run(f"{box}.selectedIndex = {number}; {box}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        return [name.split(" ")[0] for name in page.run(names)]

    with open_browser(find_browser()) as page:
        page.open(file)
        assert choose("outcome", 0) == ["one", "two", "three", "four"]
        assert page.run("[...document.images].map(i => i.naturalWidth > 0 && i.complete)") == [True] * 3
        assert page.run("window.hacked === undefined")
        assert page.run("document.querySelectorAll('.answer')[1].textContent") == ATTACK
        assert page.run("document.querySelectorAll('.answer')[2].textContent") == "{{ 7 * 7 }}"
        assert choose("outcome", 1) == ["one", "three"]
        assert page.run("document.getElementById('shown').textContent") == "2 of 4 samples"
        assert choose("outcome", 2) == ["two", "four"]
        assert choose("category", 2) == []
        assert choose("outcome", 0) == ["one", "three"]
        assert choose("category", 1) == ["two", "four"]
        assert page.run("category.selectedOptions[0].textContent") == "<count>"
        assert choose("category", 0) == ["one", "two", "three", "four"]
        page.screenshot(tmp_path / "page.png")
        assert page.addresses() == [file.resolve().as_uri()]
        assert page.complaints() == []
    with Image.open(tmp_path / "page.png") as image:
        colors = image.convert("RGB").getcolors(1 << 20)
    # The red image is on the page, in JPEG's rounding.
    assert any(count > 10_000 and red > 190 and green < 40 for count, (red, green, _) in colors)
