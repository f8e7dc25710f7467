"""What tells pictures apart without decoding files: a digest for bytes and pixels, path and size for files."""

import hashlib
import os
from typing import Any

from PIL import Image


def picture_key(ref: Any) -> str:
    """Returns a key that two references share if they show the same picture from the same place.

    Args:
        ref: A picture reference, or a picture in memory.

    Returns:
        The key; a file's holds its path and its size, so that a file that was replaced has another one.
    """
    if isinstance(ref, Image.Image):
        digest = hashlib.sha256(f"{ref.mode} {ref.size} ".encode() + ref.tobytes())
        return f"pixels:{digest.hexdigest()[:32]}"
    if ref.get("bytes") is not None:
        return f"bytes:{hashlib.sha256(ref['bytes']).hexdigest()[:32]}"
    path = os.path.realpath(ref.get("path") or "")
    size = os.path.getsize(path) if os.path.isfile(path) else -1
    return f"file:{size}:{path}"
