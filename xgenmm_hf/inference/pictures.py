"""Opening pictures from disk so that a bad file is one clear sentence.

Pictures are read as the original did: ``Image.open(path).convert("RGB")``. That means an EXIF orientation is *not*
applied, an alpha channel is dropped, and of an animation the first frame is taken.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Opens and decodes one picture.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        The whole picture in RGB, its file closed.

    Raises:
        ValueError: If the file is missing, empty, damaged, not a picture, or larger than Pillow's limit for one
            picture (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    name = os.fspath(path)
    file = Path(name)
    if "://" in name:
        raise ValueError(f"{name} is an address, not a file: download the picture and give its path.")
    if not file.exists():
        raise ValueError(f"There is no picture at {name}: check the path.")
    if not file.is_file():
        raise ValueError(f"{name} is not a file: give the path of one picture.")
    if file.stat().st_size == 0:
        raise ValueError(f"The picture {name} is empty (0 bytes): it may not have been downloaded whole.")
    with picture_errors(name), Image.open(name) as picture:
        return picture.convert("RGB")


def open_pictures(paths: Sequence[str | os.PathLike[str]]) -> list[Image.Image]:
    """Opens pictures in order.

    Args:
        paths: Files in any format that Pillow reads.

    Returns:
        One RGB picture a path.

    Raises:
        ValueError: For the first that cannot be opened.
    """
    return [open_picture(path) for path in paths]


@contextmanager
def picture_errors(name: str) -> Iterator[None]:
    """Tells Pillow's many kinds of failure as one.

    Args:
        name: What to call the picture.

    Raises:
        ValueError: For every failure inside the block.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its limit; both count as too large here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture in a format that can be read: convert it to PNG or JPEG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"The picture {name} is too large: the limit is {Image.MAX_IMAGE_PIXELS} pixels (width x height); "
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except PermissionError:
        raise ValueError(f"The picture {name} may not be read: check its permissions.") from None
    except Exception as error:
        # Damaged files fail inside decoders with OSError, SyntaxError, struct.error, EOFError, IndexError and others.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"The picture {name} is damaged or cut short ({reason}): get it again.") from error
