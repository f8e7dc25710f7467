"""References to images: lazy, limited, and inside their roots."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xgenmm_hf.data.image_refs import (
    PathRefused,
    Roots,
    UnreadableImage,
    image_ref,
    image_size,
    open_image,
)


def encoded(size=(6, 4), format="PNG", mode="RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format=format)
    return file.getvalue()


def test_bytes_paths_and_images_in_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(mode="LA"))
    for ref in (image_ref(tmp_path / "a.png"), image_ref("named.png", encoded()), Image.new("L", (6, 4))):
        assert image_size(ref) == (4, 6)
        image = open_image(ref)
        assert (image.mode, image.size) == ("RGB", (6, 4))


def test_the_size_needs_only_the_header(tmp_path):
    data = encoded((600, 400), "JPEG")[:-500]
    assert image_size(image_ref(None, data)) == (400, 600)
    with pytest.raises(UnreadableImage, match="damaged or cut short"):
        open_image(image_ref("cut.jpg", data))


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (image_ref("nowhere.png"), "no image at nowhere.png"),
        (image_ref("named.png", b""), "named.png is empty"),
        (image_ref("named.png", b"text"), "named.png is not an image"),
        (image_ref(), "is no image"),
        ("a.png", "no image at a.png"),
    ],
)
def test_what_cannot_be_read(ref, reason):
    for read in (open_image, image_size):
        with pytest.raises(UnreadableImage, match=reason):
            read(ref)


def test_too_many_pixels(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    (tmp_path / "a.png").write_bytes(encoded())
    for ref in (image_ref(None, encoded()), image_ref(tmp_path / "a.png")):
        for read in (open_image, image_size):
            with pytest.raises(UnreadableImage, match="too large"):
                read(ref)


def test_roots(tmp_path):
    roots = Roots({"coco": "/data/coco", "coco/val": "/val", "/export/share": "/mnt"}, default=tmp_path)
    assert roots.resolve("coco/train/1.jpg") == "/data/coco/train/1.jpg"
    assert roots.resolve("coco/val/1.jpg") == "/val/1.jpg"
    assert roots.resolve("./cocoa//1.jpg") == str(tmp_path / "cocoa" / "1.jpg")
    assert roots.resolve("/export/share/1.jpg") == "/mnt/1.jpg"
    assert Roots({"": "/all"}).resolve("a/1.jpg") == "/all/a/1.jpg"


@pytest.mark.parametrize(
    "path",
    ["../1.jpg", "a/../../1.jpg", "/etc/passwd", "//etc/passwd", "", ".", "C:/1.jpg", "a\\..\\..\\1.jpg", "a\0"],
)
def test_paths_that_leave_their_root(path, tmp_path):
    with pytest.raises(PathRefused):
        Roots(default=tmp_path).resolve(path)


def test_addresses_and_unknown_prefixes():
    with pytest.raises(PathRefused, match="download"):
        Roots({"": "/all"}).resolve("https://example.org/1.jpg")
    with pytest.raises(PathRefused, match="no root covers .* .roots: 'coco'"):
        Roots({"coco": "/data"}).resolve("vg/1.jpg")


@given(st.text(alphabet="ab./\\:~ ", max_size=12))
def test_a_resolved_path_is_inside_its_root(path):
    try:
        resolved = Roots(default="/root").resolve(path)
    except PathRefused:
        return
    assert os.path.commonpath([os.path.normpath(resolved), "/root"]) == "/root"
