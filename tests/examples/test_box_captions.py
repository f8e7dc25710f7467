"""OCR captions in six granularities and grounding captions in three forms, as the report shows them."""

import json
import re
from fractions import Fraction

import pytest
from box_captions import FORMS, GRANULARITIES, checked_box, grounding_caption, main, ocr_caption, ocr_phrase, place
from hypothesis import given
from hypothesis import strategies as st

from xgenmm_hf import load_rows
from xgenmm_hf.data.adapters.pretraining import drop_fillers


SHOP = ("MACK SHOP", (0.192, 0.037, 0.817, 0.203))
PHRASES = [
    '"MACK SHOP"',
    '"MACK SHOP" located above the center',
    '"MACK SHOP" located at 2/17 of the image from top to bottom and 1/2 of the image from left to right',
    '"MACK SHOP" approximately starts at [0.2, 0.0] and extends up to [0.8, 0.2]',
    '"MACK SHOP" starts at [0.192, 0.037] and extends up to [0.817, 0.203]',
    "<ocr>MACK SHOP</ocr><bbox>[0.192, 0.037][0.817, 0.203]</bbox>",
]
words = st.text(alphabet=st.characters(blacklist_characters='"<>', blacklist_categories=("Cs", "Cc")), min_size=1)
boxes = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(
    lambda four: (min(four[:2]), min(four[2:]), max(four[:2]), max(four[2:]))
)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_reports_example(granularity):
    assert ocr_phrase(*SHOP, granularity) == PHRASES[granularity - 1]


def test_several_texts():
    texts = [SHOP, ("OPEN", (0.0, 0.9, 0.1, 1.0))]
    assert ocr_caption(texts) == '"MACK SHOP", "OPEN"'
    assert ocr_caption(texts, 2) == '"MACK SHOP" located above the center, "OPEN" located at the bottom left corner'
    assert ocr_caption(texts, 1, fillers=True) == 'The image contains the text "MACK SHOP", the text "OPEN"'
    assert ocr_caption([], fillers=True) == ""


@given(st.lists(st.tuples(words, boxes), max_size=4), st.sampled_from(GRANULARITIES))
def test_dropping_the_fillers_undoes_writing_them(texts, granularity):
    plain = ocr_caption(texts, granularity)
    assert drop_fillers(ocr_caption(texts, granularity, fillers=True)) == plain
    assert drop_fillers(plain) == plain


@pytest.mark.parametrize(
    ("caption", "plain"),
    [
        ('The image contains the text "A", the text "the text" and the text "B"', '"A", "the text" and "B"'),
        ('This image shows text "A" located above the center', '"A" located above the center'),
        ("the text <ocr>the text A</ocr><bbox>x</bbox>", "<ocr>the text A</ocr><bbox>x</bbox>"),
        ("The image contains a dog", "The image contains a dog"),
    ],
)
def test_fillers(caption, plain):
    assert drop_fillers(caption) == plain


@given(boxes)
def test_places_and_fractions_are_inside(box):
    assert place(box).endswith(("center", "corner"))
    down, across = map(Fraction, re.findall(r"located at (\S+) of .* and (\S+) of", ocr_phrase("A", box, 3))[0])
    for middle, (low, high) in ((down, box[1::2]), (across, box[::2])):
        assert abs(middle - (low + high) / 2) <= 1 / 40  # half the widest gap between fractions: from 0 to 1/20
        assert middle.denominator <= 20


def test_all_nine_places():
    names = {place((x / 3, y / 3, (x + 1) / 3, (y + 1) / 3)) for x in range(3) for y in range(3)}
    assert len(names) == 9
    assert place((0.4, 0.4, 0.6, 0.6)) == "in the center"


@pytest.mark.parametrize("values", [(0, 0, 1), (0.5, 0, 0.4, 1), (0, 0, 2, 1), (0, 0, 1, "1"), (0, 0, 1, True), ()])
def test_what_is_no_box(values):
    with pytest.raises(ValueError, match="A box is"):
        checked_box(values)


def test_boxes_as_corners():
    assert checked_box([[0, 0.1], [1, 0.2]]) == (0.0, 0.1, 1.0, 0.2)


def test_an_unknown_granularity():
    with pytest.raises(ValueError, match="granularity 7"):
        ocr_phrase(*SHOP, 7)


PLAYER = ("football player", (0.015, 0.005, 0.845, 0.993))
JERSEY = ("red jersey", (0.205, 0.207, 0.638, 0.994))


@pytest.mark.parametrize(
    ("form", "caption"),
    [
        ("place", "A football player (in the center) wearing a red jersey (in the center)."),
        (
            "tags",
            "A <object>football player</object><bbox>[0.015, 0.005][0.845, 0.993]</bbox> wearing a "
            "<object>red jersey</object><bbox>[0.205, 0.207][0.638, 0.994]</bbox>.",
        ),
        (
            "extent",
            "A football player (starts at (0.015, 0.005) and extends up to (0.845, 0.993)) wearing a red jersey "
            "(starts at (0.205, 0.207) and extends up to (0.638, 0.994)).",
        ),
    ],
)
def test_forms(form, caption):
    assert grounding_caption("A football player wearing a red jersey.", [PLAYER, JERSEY], form) == caption


def test_longer_names_and_whole_words_first():
    left, right = (0.0, 0.4, 0.2, 0.6), (0.8, 0.4, 1.0, 0.6)
    caption = grounding_caption("Jerseys, a red jersey, a Jersey.", [("jersey", left), ("red jersey", right)], "place")
    assert caption == ("Jerseys, a red jersey (to the right of the center), a Jersey (to the left of the center).")


def test_objects_of_one_name_take_mentions_in_order():
    objects = [("cat", (0.0, 0.0, 0.1, 0.1)), ("cat", (0.9, 0.9, 1.0, 1.0))]
    caption = grounding_caption("A cat, a cat and a cat.", objects, "place")
    assert caption == "A cat (at the top left corner), a cat (at the bottom right corner) and a cat."


@given(st.text(max_size=40), st.lists(st.text(max_size=6), max_size=4), st.sampled_from(FORMS))
def test_the_caption_itself_stays(caption, names, form):
    written = grounding_caption(caption, [(name, PLAYER[1]) for name in names], form)
    numbers = r"[\[(]0\.015, 0\.005[\])](?: and extends up to )?[\[(]0\.845, 0\.993[\])]"
    marks = rf"<object>|</object><bbox>{numbers}</bbox>| \(in the center\)| \(starts at {numbers}\)"
    assert re.sub(marks, "", written) == re.sub(marks, "", caption)


def test_an_unknown_form():
    with pytest.raises(ValueError, match="grounding form 'box'"):
        grounding_caption("A cat.", [], "box")


def test_lines_become_a_source_of_captions(tmp_path, monkeypatch):
    lines = [
        {"image": "1.jpg", "texts": [{"text": "SHOP", "bbox": [0.4, 0.4, 0.6, 0.6]}]},
        {"image": "2.jpg", "caption": "A bus.", "objects": [{"name": "bus", "bbox": [0.4, 0.4, 0.6, 0.6]}]},
    ]
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [str(tmp_path / "boxes.jsonl"), str(tmp_path / "captions.jsonl"), "--granularity", "2"]
    monkeypatch.setattr("sys.argv", ["box_captions.py", *given])
    main()
    rows = load_rows("captions", tmp_path / "captions.jsonl", cache_dir=tmp_path / "cache").dataset
    assert [row["content"][1]["text"] for row in rows] == ['"SHOP" located in the center', "A bus (in the center)."]
