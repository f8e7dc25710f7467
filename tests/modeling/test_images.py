"""Reading images: what is read, and one clear sentence for what cannot be."""

import base64
import http.server
import io
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from xgenmm_hf.modeling.images_xgenmm import MAX_SIDE, read_image, read_size


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb_as_the_original_did(tmp_path, mode):
    path = tmp_path / "image.tiff"
    noise(9, 7).convert(mode).save(path)
    opened = read_image(path)
    assert (opened.mode, opened.size) == ("RGB", (9, 7))
    assert opened.tobytes() == Image.open(path).convert("RGB").tobytes()


RAMP = np.linspace(0, 65_535, 64).reshape(8, 8)
GREY = np.round(RAMP / 257).astype(np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.uint16),
        RAMP.astype(np.int32),
        (RAMP / 65_535).astype(np.float32),
        (RAMP / 257).astype(np.float32),
        (RAMP * 3 - 7).astype(np.float32),
        (RAMP * 3).astype(np.int32),
    ],
)
def test_greyscale_of_more_than_8_bits_is_scaled(values, tmp_path):
    image = Image.fromarray(values)
    assert image.mode in ("I;16", "I", "F")
    image.save(tmp_path / "grey.tiff")
    for source in (image, tmp_path / "grey.tiff"):
        read = np.asarray(read_image(source)).astype(int)
        assert np.abs(read - GREY[..., None]).max() <= (1 if values.min() < 0 or values.max() > 65_535 else 0)


def test_greyscale_that_pillow_made_of_8_bits_stays():
    grey = noise().convert("L")
    for mode in ("I", "F"):
        assert read_image(grey.convert(mode)).tobytes() == grey.convert("RGB").tobytes()
    with pytest.raises(ValueError, match="NaN"):
        read_image(Image.new("F", (4, 4), float("nan")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_is_opened_here_is_turned_and_an_image_is_taken_as_it_is(tmp_path, kind, orientation):
    path, exif = tmp_path / "turned", Image.Exif()
    exif[0x0112] = orientation
    noise(20, 10).save(path, kind, exif=exif)
    with Image.open(path) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
        if kind != "TIFF":  # which Pillow turns while it loads
            assert read_image(opened).size == (20, 10)
    for source in (path, str(path), path.as_uri(), path.read_bytes(), {"bytes": path.read_bytes(), "path": "a.jpg"}):
        assert read_image(source).tobytes() == expected.tobytes()
        assert read_size(source) == (expected.height, expected.width)


def test_data_urls_and_base64_of_a_photo(tmp_path):
    photo = Image.effect_noise((900, 700), 90).convert("RGB")
    file = io.BytesIO()
    photo.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    assert len(text) > 1_000_000
    forms = [text, f"data:image/png;base64,{text}", f"data:image/png;charset=x;base64,{text}"]
    forms += [base64.encodebytes(file.getvalue()).decode(), base64.urlsafe_b64encode(file.getvalue()).decode()]
    for form in forms:
        assert read_image(form).tobytes() == photo.tobytes()
        with pytest.raises(ValueError, match="damaged|valid base64") as refused:
            read_image(form[: len(form) // 2])
        assert len(str(refused.value)) < 250


def refusal(path) -> str:
    with pytest.raises(ValueError) as refused:
        read_image(path)
    message = str(refused.value)
    assert "\n" not in message
    # of a long path the end is said
    assert (str(path) if len(str(path)) <= 80 else path.name) in message
    return message


def test_missing_empty_foreign(tmp_path):
    assert "check the path" in refusal(tmp_path / "missing.png")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    assert "not an image" in refusal(tmp_path / "text.jpg")
    assert "fetching is off here" in refusal("https://example.com/a.png")
    assert "of a kind that is not read" in refusal("s3://bucket/a.png")


@pytest.mark.parametrize(
    "source",
    ["x" * 100_000, "data:image/png;base64," + "@" * 1000, "data:text/plain,hello", "a/" * 5000, "a\0b", "\ud800", ""],
)
def test_messages_repeat_little_of_what_was_passed(source):
    with pytest.raises(ValueError) as refused:
        read_image(source, "images[0]")
    message = str(refused.value)
    assert len(message) < 200
    assert message.isprintable()


def test_offline_mode_stops_fetching(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="offline mode is on"):
        read_image("https://example.com/a.png", allow_remote=True)


def test_fetching(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    data = encoded("PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            if self.path == "/a.png":
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert read_image(f"{address}/a.png", allow_remote=True).size == (64, 48)
        with pytest.raises(ValueError, match="cannot be fetched.*404"):
            read_image(f"{address}/b.png", allow_remote=True)
        server.shutdown()


def test_no_helper_program_is_ever_started(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", None)
    monkeypatch.setattr("subprocess.Popen", None)
    for name, kind in (("a.eps", "EPS"), ("a.png", "EPS"), ("a.ppm", "PPM"), ("a.ico", "ICO"), ("a.pdf", "PDF")):
        noise().save(tmp_path / name, kind)
        assert "not an image in a format" in refusal(tmp_path / name)


def test_heic_says_what_it_needs(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    message = refusal(tmp_path / "a.heic")
    assert "pillow-heif" in message or "damaged" in message


def test_a_side_has_a_limit(tmp_path):
    assert read_image(Image.new("L", (1, MAX_SIDE))).size == (1, MAX_SIDE)
    long = Image.new("1", (MAX_SIDE + 1, 1))
    long.save(tmp_path / "long.png")
    assert "the limit of a side is 65535" in refusal(tmp_path / "long.png")
    with pytest.raises(ValueError, match="the limit of a side is 65535"):
        read_size(tmp_path / "long.png")
    with pytest.raises(ValueError, match="the limit of a side is 65535"):
        read_image(long)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_bytes_end_in_one_sentence(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    random, whole = np.random.default_rng(0), encoded(kind)
    for _ in range(40):
        data = bytearray(whole[: random.integers(1, len(whole))])
        for place in random.integers(0, len(data), random.integers(0, 6)):
            data[place] = random.integers(256)
        for read in (read_image, read_size):
            try:
                read(bytes(data))
            except ValueError as error:
                assert len(str(error)) < 250 and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path, kind, share):
    path = tmp_path / f"cut.{kind.lower()}"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * share)])
    try:
        opened = read_image(path)
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
    read_image(tmp_path / "a.png")
    assert warnings.filters == before
