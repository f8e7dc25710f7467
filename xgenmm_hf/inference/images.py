"""Opening images from disk so that a bad file is one clear sentence.

Images are read as the original did: ``Image.open(path).convert("RGB")``. That means an EXIF orientation is *not*
applied, an alpha channel is dropped, and of an animation the first frame is taken.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Opens and decodes one image.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        The whole image in RGB, its file closed.

    Raises:
        ValueError: If the file is missing, empty, damaged, not an image, or larger than Pillow's limit for one
            image (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    name = os.fspath(path)
    file = Path(name)
    if "://" in name:
        raise ValueError(f"{name} is an address, not a file: download the image and give its path.")
    if not file.exists():
        raise ValueError(f"There is no image at {name}: check the path.")
    if not file.is_file():
        raise ValueError(f"{name} is not a file: give the path of one image.")
    if file.stat().st_size == 0:
        raise ValueError(f"The image {name} is empty (0 bytes): it may not have been downloaded whole.")
    with image_errors(name), Image.open(name) as image:
        return image.convert("RGB")


def open_images(paths: Sequence[str | os.PathLike[str]]) -> list[Image.Image]:
    """Opens images in order.

    Args:
        paths: Files in any format that Pillow reads.

    Returns:
        One RGB image a path.

    Raises:
        ValueError: For the first that cannot be opened.
    """
    return [open_image(path) for path in paths]


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Tells Pillow's many kinds of failure as one.

    Args:
        name: What to call the image.

    Raises:
        ValueError: For every failure inside the block.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its limit; both count as too large here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image in a format that can be read: convert it to PNG or JPEG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"The image {name} is too large: the limit is {Image.MAX_IMAGE_PIXELS} pixels (width x height); "
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except PermissionError:
        raise ValueError(f"The image {name} may not be read: check its permissions.") from None
    except Exception as error:
        # Damaged files fail inside decoders with OSError, SyntaxError, struct.error, EOFError, IndexError and others.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"The image {name} is damaged or cut short ({reason}): get it again.") from error
