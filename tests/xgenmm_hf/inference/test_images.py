"""Opening images: what is read, and one clear sentence for what cannot be."""

import io
import warnings

import pytest
from PIL import Image

from xgenmm_hf.inference.images import open_image, open_images


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_as_the_original_did(tmp_path, mode):
    path = tmp_path / "image.tiff"
    source = Image.new("I;16", (9, 7), 300) if mode == "I;16" else noise(9, 7).convert(mode)
    source.save(path)
    opened = open_image(path)
    assert (opened.mode, opened.size) == ("RGB", (9, 7))
    assert opened.tobytes() == Image.open(path).convert("RGB").tobytes()


def test_exif_orientation_is_not_applied(tmp_path):
    image, exif = noise(20, 10), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 10)


def test_order_is_kept(tmp_path):
    paths = [tmp_path / f"{width}.png" for width in (3, 1, 2)]
    for path in paths:
        Image.new("RGB", (int(path.stem), 1)).save(path)
    assert [image.size[0] for image in open_images(paths)] == [3, 1, 2]


def refusal(path) -> str:
    with pytest.raises(ValueError) as refused:
        open_image(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_missing_empty_foreign(tmp_path):
    assert "check the path" in refusal(tmp_path / "missing.png")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    assert "not an image" in refusal(tmp_path / "text.jpg")
    assert "address" in refusal("https://example.com/a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path, kind, share):
    path = tmp_path / f"cut.{kind.lower()}"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * share)])
    try:
        opened = open_image(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        # A GIF's decoder fills up what is missing by itself.
        assert kind == "GIF"
        assert opened.size == (64, 48)


@pytest.mark.parametrize("limit", [1000, 2000])
def test_bombs(tmp_path, monkeypatch, limit):
    """Pillow warns above its limit (64 x 48 is 1.5 times 2000) and fails above twice that; both are refused."""
    noise().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "too large" in refusal(tmp_path / "large.png")


def test_a_header_that_claims_a_huge_size_allocates_nothing(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert "too large" in refusal(tmp_path / "bomb.png")


def test_the_caller_keeps_its_warning_filters(tmp_path):
    noise().save(tmp_path / "a.png")
    before = list(warnings.filters)
    open_image(tmp_path / "a.png")
    assert warnings.filters == before
