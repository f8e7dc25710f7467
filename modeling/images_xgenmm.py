"""Reading images: the one place where a path, a URL, bytes, an array or a PIL image becomes an RGB image.

An image that the caller opened is used as it is. An image opened here is rotated by its EXIF orientation. Greyscale of
16 or 32 bits is scaled to 8 bits; every other mode becomes RGB by Pillow's conversion, as in the original code.

This module needs neither torch nor Transformers, so that commands can check images before they import these.

Shapes: arrays are (height, width, channels) or (channels, height, width); sizes are (height, width) in pixels.
"""

import base64
import binascii
import importlib
import importlib.util
import io
import os
import re
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError


# Few formats, because untrusted bytes reach the code of every decoder, and some of Pillow's start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_SIDE = 65_535
MAX_DOWNLOAD_BYTES = 64 * 2**20
DOWNLOAD_SECONDS = 30
LONGEST_QUOTE = 80

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
_GREYSCALE_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_GREYSCALE_32 = ("I", "F")
_LONGEST_PATH = 4096
_YES = ("1", "true", "yes", "on")


def read_image(source: Any, name: str | None = None, *, allow_remote: bool = False) -> Image.Image:
    """Returns an image as RGB; `name` stands for it in errors, and http(s) addresses need `allow_remote`."""
    name = image_name(source, name)
    if isinstance(source, Image.Image):
        return to_rgb(source, name)
    if _is_array(source):
        return array_to_image(source, name)
    with ExitStack() as stack:
        image = _open(source, name, allow_remote, stack)
        with image_errors(name):
            ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image, name)


def read_size(source: Any, name: str | None = None) -> tuple[int, int]:
    """Returns the (height, width) in pixels that `read_image` would give, from the header; nothing is fetched.

    No pixel is decoded, so an orientation that a PNG file stores after its pixels is ignored.
    """
    name = image_name(source, name)
    if isinstance(source, Image.Image):
        return source.height, source.width
    if _is_array(source):
        image = array_to_image(source, name)
        return image.height, image.width
    with ExitStack() as stack:
        image = _open(source, name, False, stack)
        # Pillow would decode a PNG file to find EXIF after the pixels, and it rotates TIFF files itself.
        has_exif = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
        with image_errors(name):
            on_its_side = has_exif and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size if on_its_side else (image.height, image.width)


def image_name(source: Any, name: str | None = None) -> str:
    """Returns an image's name for messages: its file, else `name`; at most 80 characters of input."""
    if isinstance(source, Mapping):
        source = source.get("path")
    elif isinstance(source, Image.Image):
        source = getattr(source, "filename", None)
    if isinstance(source, (str, os.PathLike)) and os.fspath(source) and not _is_data_url(source):
        text = os.fsdecode(source)
        # a long path is shown by its end, anything else by its beginning
        is_path = len(text) <= _LONGEST_PATH and not ADDRESS.match(text)
        return f"...{quoted(text[3 - LONGEST_QUOTE :])}" if is_path and len(text) > LONGEST_QUOTE else quoted(text)
    return name or "in memory"


def quoted(text: Any) -> str:
    """Returns at most 80 characters of a text, for a message."""
    text = os.fsdecode(text)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."


def flatten(images: Any) -> list[Any]:
    """Lists the images of an image, of (nested) lists of images, or of a batch of arrays; None stands for no image."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)) or (_is_array(images) and images.ndim >= 4):
        return [image for item in images for image in flatten(item)]
    return [images]


def normalize_tiles(tiles: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Normalises uint8 tiles (num_tiles, 3, S, S) to float32, on a CPU bit for bit as the image processor does."""
    values = tiles.float() / 255
    shape = (-1, 1, 1)
    return (values - values.new_tensor(mean).view(shape)) / values.new_tensor(std).view(shape)


def check_size(height: int, width: int, name: str, *, padded: bool = False) -> None:
    """Checks an image's size against the limits, which are the same wherever an image comes from."""
    if height < 1 or width < 1:
        raise ValueError(f"The image {name} is {width} x {height} pixels; it must not be empty.")
    if max(height, width) > MAX_SIDE:
        raise ValueError(
            f"The image {name} is {width} x {height} pixels, which is too large: the limit of a side is {MAX_SIDE}; "
            "make it smaller."
        )
    pixels = max(height, width) ** 2 if padded else height * width
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        canvas = f"needs a square canvas of {pixels}" if padded else f"has {pixels}"
        raise ValueError(
            f"The image {name} is too large: it {canvas} pixels and the limit is {Image.MAX_IMAGE_PIXELS}; "
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turns all kinds of errors that Pillow raises into a ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which check_size limits, and odd metadata
            yield
    except UnidentifiedImageError:
        raise ValueError(
            f"The image {name} is not an image in a format that can be read ({', '.join(FORMATS)}): convert it to PNG "
            "or JPEG."
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"The image {name} is too large: the limit is {Image.MAX_IMAGE_PIXELS} pixels (width x height); make it "
            "smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except PermissionError:
        raise ValueError(f"The image {name} may not be read: check its permissions.") from None
    except MemoryError:
        raise ValueError(f"The image {name} does not fit into memory: make it smaller.") from None
    except Exception as error:
        # Damaged files fail inside decoders with OSError, SyntaxError, struct.error, EOFError, IndexError and others.
        reason = quoted(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(f"The image {name} is damaged or cut short ({reason}): get it again.") from error


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Converts a PIL image to RGB."""
    check_size(image.height, image.width, name)
    with image_errors(name):
        image.load()
        if image.mode == "RGB":
            return image
        if image.mode in _GREYSCALE_16:
            values = np.asarray(image).astype(np.float64) / 257
        elif image.mode in _GREYSCALE_32:
            values = _to_8_bits(np.asarray(image).astype(np.float64), image.mode)
        else:
            return image.convert("RGB")
        return Image.fromarray((values + 0.5).astype(np.uint8)).convert("RGB")


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scales greyscale of 32 bits to 0-255."""
    low, high = values.min(), values.max()
    if not np.isfinite(low + high):
        raise ValueError("it holds NaN or inf")
    if low >= 0 and high <= 1 and mode == "F":
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65_535 and mode == "I":
        return values / 257
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


def _is_array(source: Any) -> bool:
    return isinstance(source, np.ndarray) or (hasattr(source, "detach") and hasattr(source, "ndim"))  # a tensor


def array_to_image(array: Any, name: str) -> Image.Image:
    """Converts an array or tensor to an RGB image; floats are rounded to the nearest of 256 levels.

    It is (height, width, channels) or (channels, height, width) with 1, 3 or 4 channels (where both fit, the first are
    the channels, as in Transformers), of integers in 0-255 or floats in 0-1.
    """
    if not isinstance(array, np.ndarray):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    is_float = np.issubdtype(array.dtype, np.floating)
    is_number = is_float or np.issubdtype(array.dtype, np.integer)
    channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
    fits = is_number and array.ndim == 3 and (channels_first or array.shape[2] in (1, 3, 4))
    if fits and array.size == 0:
        height, width = array.shape[1:] if channels_first else array.shape[:2]
        check_size(height, width, name)
    if not fits or not (array.min() >= 0 and array.max() <= (1 if is_float else 255)):
        values = f" with values {array.min():.4g} to {array.max():.4g}" if fits else ""
        raise ValueError(
            f"The image {name} is an array of shape {array.shape} and type {array.dtype}{values}; pass "
            "(height, width, 3) or (3, height, width) with uint8 values, or floats in 0-1."
        )
    pixels = array.transpose(1, 2, 0) if channels_first else array
    pixels = (pixels * 255 + 0.5 if is_float else pixels).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return to_rgb(Image.fromarray(pixels), name)


def _open(source: Any, name: str, allow_remote: bool, stack: ExitStack) -> Image.Image:
    """Opens an encoded image and reads its header; the stack closes its file."""
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (str, os.PathLike)) and os.fspath(source):
        source = _locate(os.fspath(source), name, allow_remote)
    if isinstance(source, (bytes, bytearray, memoryview)):
        file: Any = io.BytesIO(source)
    elif isinstance(source, Path):
        with image_errors(name):
            file = stack.enter_context(source.open("rb"))
    else:
        raise ValueError(
            f"The image {name} is a {type(source).__name__}; pass PIL images, arrays, paths, addresses, data URLs or "
            "bytes."
        )
    with image_errors(name):
        prefix = file.read(12)
    if not prefix:
        raise ValueError(f"The image {name} is empty (0 bytes): it may not have been downloaded whole.")
    formats = _formats(prefix, name)
    with image_errors(name):
        image = stack.enter_context(Image.open(file, formats=formats))
    check_size(image.height, image.width, name)
    return image


def _formats(prefix: bytes, name: str) -> list[str]:
    """Lists the formats that this installation reads; pillow-heif is imported at the first HEIC file."""
    Image.init()
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC_BRANDS and "HEIF" not in Image.OPEN:
        if importlib.util.find_spec("pillow_heif") is not None:
            importlib.import_module("pillow_heif").register_heif_opener()
        elif not prefix.endswith(b"f1"):  # mif1 and msf1 may also be AVIF, which Pillow reads
            raise ValueError(f"The image {name} is HEIC, which needs pillow-heif: pip install pillow-heif.")
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _locate(text: str, name: str, allow_remote: bool) -> bytes | Path:
    """Turns a path, an address, a data URL or base64 into a file or its bytes."""
    if _is_data_url(text):
        return read_data_url(text, name)
    scheme = text.partition("://")[0].lower() if ADDRESS.match(text) else ""
    if scheme in ("http", "https"):
        return _fetch(text, name, allow_remote)
    if scheme == "file":
        text = url2pathname(urlsplit(text).path)
    elif scheme:
        raise ValueError(
            f"The image {name} is an address of a kind that is not read: give a file, or an http or https address."
        )
    path = Path(text)
    try:
        is_file, exists = path.is_file(), path.exists()
    except (OSError, ValueError):  # longer than a file name may be, or with a null byte
        is_file = exists = False
    if is_file:
        return path
    if exists:
        raise ValueError(f"The image {name} is not a file: give the path of one image.")
    data = _decode_base64(text)
    if data is not None and _is_image(data):
        return data
    remedy = "check the path" if len(text) <= _LONGEST_PATH else "it is neither a path nor valid base64 of an image"
    raise ValueError(f"There is no image at {name}: {remedy}.")


def _is_image(data: bytes) -> bool:
    """Tells whether bytes begin like an image, to distinguish base64 from a path that does not exist."""
    try:
        Image.open(io.BytesIO(data), formats=_formats(data[:12], "")).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # damaged, too large or without its package: reading it reports why
        return True
    return True


def _is_data_url(source: Any) -> bool:
    return isinstance(source, str) and source[:5].lower() == "data:"


def read_data_url(url: str, name: str) -> bytes:
    """Decodes a `data:image/...` URL."""
    header, comma, payload = url.partition(",")
    kind, *options = header[len("data:") :].split(";")
    if not comma or not kind.lower().startswith("image/"):
        raise ValueError(f"The image {name} is not an image data URL; write data:image/png;base64,...")
    if "base64" not in [option.strip().lower() for option in options]:
        return unquote_to_bytes(payload)
    data = _decode_base64(payload)
    if data is None:
        raise ValueError(f"The image {name} is not valid base64.")
    return data


def _decode_base64(text: str) -> bytes | None:
    """Decodes base64 with or without line breaks and padding, in either alphabet; None if the text is not base64."""
    compact = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _fetch(url: str, name: str, allow_remote: bool) -> bytes:
    """Returns the bytes at an http(s) address; a ValueError if fetching is off or fails."""
    offline = any(os.environ.get(name, "").lower() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    if not allow_remote or offline:
        reason = "offline mode is on" if allow_remote else "fetching is off here"
        raise ValueError(f"The image {name} is an address and {reason}: download the image and give its path.")
    request = urllib.request.Request(url, headers={"User-Agent": "xgenmm-hf"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
            data = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (OSError, ValueError) as error:  # URLError, HTTPError and timeouts are OSErrors
        raise ValueError(f"The image {name} cannot be fetched ({quoted(' '.join(str(error).split()))}).") from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"The image {name} is larger than the limit of {MAX_DOWNLOAD_BYTES} bytes.")
    return data
