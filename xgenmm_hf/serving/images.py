"""Images that requests name: data URLs always, files under one folder and public addresses where allowed."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image

from xgenmm_hf.modeling.images_xgenmm import read_data_url, read_image, read_size
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.settings import Settings


def is_remote(url: str) -> bool:
    """Tells whether an image must be fetched from elsewhere."""
    return url.partition(":")[0].lower() in ("http", "https")


def image_of_url(url: str, name: str, settings: Settings, fetched: Mapping[str, bytes], pixels: int) -> Image.Image:
    """Reads one image; refuses it if its header states more than `pixels` pixels."""
    scheme = url.partition(":")[0].lower()
    try:
        if scheme == "data":
            data = read_data_url(url, name)
        elif scheme == "file" and settings.image_root is not None:
            data = read_file(url, name, settings.image_root, settings.max_bytes)
        elif url in fetched:
            data = fetched[url]
        else:
            known = {"file": "--image-root FOLDER", "http": "--allow-remote", "https": "--allow-remote"}
            hint = f" (the server allows {scheme} addresses only with {known[scheme]})" if scheme in known else ""
            raise RequestError(400, f"{name} must be a data URL, data:image/png;base64,...{hint}.", param="messages")
        height, width = read_size(data, name)
        if height * width <= pixels:
            return read_image(data, name)
        raise ValueError(
            f"{name} has {width} x {height} pixels; {pixels} are left of the {settings.max_pixels} that a request's "
            "images may have together: make it smaller, or send fewer."
        )
    except ValueError as error:
        raise RequestError(400, str(error), code="invalid_image", param="messages") from None


def read_file(url: str, name: str, root: Path, max_bytes: int) -> bytes:
    """Returns the bytes of a ``file://`` address under a folder; files outside it are reported as missing."""
    missing = RequestError(400, f"{name} is no file under the server's image folder.", param="messages")
    try:
        parts = urlsplit(url)
        # resolved first, so that neither `..` nor a link leads out
        path = Path(url2pathname(parts.path)).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise missing from None
    if parts.netloc not in ("", "localhost") or not path.is_relative_to(root.resolve()) or not path.is_file():
        raise missing
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError:
        raise missing from None
    if len(data) > max_bytes:
        raise RequestError(413, f"{name} is larger than the limit of {max_bytes} bytes.", param="messages")
    return data
