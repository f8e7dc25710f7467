"""Interleaved documents, captions, OCR and grounding sets, WebDataset samples."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xgenmm_hf.data.adapters import ADAPTERS
from xgenmm_hf.data.adapters.base import Context
from xgenmm_hf.data.fields import RejectedRecord, SkippedRecord
from xgenmm_hf.data.image_refs import Roots, open_image
from xgenmm_hf.data.rows import validate_row
from xgenmm_hf.data.webdataset import sample_record


def convert(format, record, **options):
    (row,) = ADAPTERS[format].convert(record, "1", Context("set", Roots(default="/p"), options))
    assert validate_row(row) == "pretraining"
    return row


def written(row):
    """Writes a row as pre-training sees it."""
    tokens = {"image": "<image>", "end_of_chunk": "<|endofchunk|>"}
    return "".join(tokens.get(part["type"]) or part["text"] for part in row["content"])


def document(form):
    """Makes a document: digits are images, letters texts."""
    return {
        "texts": [item if item.isalpha() else None for item in form],
        "images": [None if item.isalpha() else f"{item}.jpg" for item in form],
    }


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("1a2b", "<image>a<|endofchunk|><image>b<|endofchunk|>"),
        ("a1b", "a<image>b<|endofchunk|>"),
        ("1ab2", "<image>a\n\nb<|endofchunk|>"),
        ("12a3", "<image><image>a<|endofchunk|>"),
    ],
)
def test_a_document_is_images_each_with_its_text(form, text):
    row = convert("interleaved", document(form))
    assert written(row) == text
    assert [image["path"] for image in row["images"]] == [f"/p/{item}.jpg" for item in form if item.isdigit()][
        : len(row["images"])
    ]


@given(st.text(alphabet="123ab", min_size=1, max_size=12), st.integers(1, 4))
def test_documents_end_before_too_many_images(form, limit):
    try:
        row = convert("interleaved", document(form), max_images=limit)
    except SkippedRecord as problem:
        assert problem.kind in ("no text", "no image")
        return
    assert 1 <= len(row["images"]) <= limit
    kinds = [part["type"] for part in row["content"]]
    assert kinds[-1] == "end_of_chunk" or "image" not in kinds
    assert all(after != "end_of_chunk" for before, after in zip(kinds, kinds[1:], strict=False) if before == "image")


@pytest.mark.parametrize(
    ("record", "problem", "kind"),
    [
        (document("ab"), SkippedRecord, "no image"),
        (document("12"), SkippedRecord, "no text"),
        (document(""), SkippedRecord, "no text"),
        ({"texts": ["a"], "images": []}, RejectedRecord, "fields"),
        ({"texts": ["a"], "images": ["1.jpg"]}, RejectedRecord, "fields"),
        ({"texts": [3], "images": [None]}, RejectedRecord, "fields"),
        ({"texts": [None, "a"], "images": ["https://example.org/1.jpg", None]}, RejectedRecord, "path"),
    ],
)
def test_documents_that_give_no_row(record, problem, kind):
    with pytest.raises(problem) as caught:
        convert("interleaved", record)
    assert caught.value.kind == kind


def test_captions():
    for record in ({"image": "1.jpg", "caption": " A bus. "}, {"url": "1.jpg", "text": "A bus."}):
        row = convert("captions", record)
        assert (written(row), row["images"][0]["path"]) == ("<image>A bus.<|endofchunk|>", "/p/1.jpg")
    options = {"image_column": "0", "caption_column": "1"}
    assert written(convert("captions", {"0": "1.jpg", "1": "A"}, **options)) == "<image>A<|endofchunk|>"
    for record in ({"image": "1.jpg"}, {"caption": "A bus."}, {"image": ["1.jpg", "2.jpg"], "caption": "A bus."}):
        with pytest.raises(RejectedRecord):
            convert("captions", record)


def test_published_ocr_captions():
    captions = [
        {"text": 'The image contains the text "A"', "granularity": 0, "include_datacomp_raw_cap": False},
        {"text": 'raw. The image contains the text "A"', "granularity": 0, "include_datacomp_raw_cap": True},
        {"text": "<ocr>A</ocr><bbox>[0.1, 0.2][0.3, 0.4]</bbox>", "granularity": 5},
    ]
    record = {"uid": "x", "image": "1.jpg", "captions": json.dumps(captions[::-1])}
    assert ADAPTERS["ocr"].matches(record)
    assert written(convert("ocr", record)) == '<image>"A"<|endofchunk|>'
    assert written(convert("ocr", record, fillers=True)) == '<image>The image contains the text "A"<|endofchunk|>'
    assert "<bbox>" in written(convert("ocr", record, granularity=6))
    with pytest.raises(RejectedRecord, match="granularity 2"):
        convert("ocr", record, granularity=3)


def test_ocr_and_grounding_that_hold_nothing_or_are_asked_for_nothing_known():
    record = {"image": "1.jpg", "captions": ""}
    with pytest.raises(SkippedRecord):
        convert("ocr", record)
    with pytest.raises(ValueError, match="granularity is 0"):
        convert("ocr", record, granularity=0)
    with pytest.raises(RejectedRecord, match="captions is a NoneType"):
        convert("grounding", {"image": "1.jpg", "caption": "A bus."})


def tiff(*colours):
    first, *rest = (Image.new("RGB", (4, 4), colour) for colour in colours)
    file = io.BytesIO()
    first.save(file, format="TIFF", save_all=True, append_images=rest)
    return file.getvalue()


def test_a_sample_with_all_its_images_in_one_file():
    fields = {"texts": [None, "a", None], "images": ["page_0_0", None, "page_1_0"]}
    sample = {"tiff": tiff("red", "blue"), "json": json.dumps(fields).encode()}
    record = sample_record("doc", sample)
    colours = [open_image(image).getpixel((0, 0)) for image in (record["images"][0], record["images"][2])]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert written(convert("interleaved", record)) == "<image>a<|endofchunk|>"
    with pytest.raises(RejectedRecord, match=r"1 image.* for 2 place"):
        sample_record("doc", {**sample, "tiff": tiff("red")})
    with pytest.raises(RejectedRecord, match="doc.tiff"):
        sample_record("doc", {**sample, "tiff": b"nothing"})


def test_samples_of_other_formats():
    talk = {"id": "7", "image": "coco/1.jpg", "conversations": []}
    record = sample_record("1", {"jpg": b"x", "json": json.dumps(talk).encode()})
    assert (record["id"], record["images"], "image" in record) == ("7", [{"bytes": b"x", "path": "1.jpg"}], False)
    record = sample_record("1", {"jpg": b"x", "json": b'{"width": 3, "caption": null}', "txt": b"A bus."})
    assert written(convert("captions", record)) == "<image>A bus.<|endofchunk|>"
    for sample in ({"jpg": b"x"}, {"json": b"{"}, {"json": b"[]"}, {"txt": b"\xff"}):
        with pytest.raises(RejectedRecord):
            sample_record("1", sample)
