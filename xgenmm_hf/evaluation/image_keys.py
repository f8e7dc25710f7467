"""What tells images apart without decoding files: a digest for bytes and pixels, path, size and time for files."""

import hashlib
import os
from typing import Any

from PIL import Image


def image_key(ref: Any) -> str:
    """Returns a key that two references share if they show the same image from the same place."""
    if isinstance(ref, Image.Image):
        digest = hashlib.sha256(f"{ref.mode} {ref.size} ".encode() + ref.tobytes())
        return f"pixels:{digest.hexdigest()[:32]}"
    if ref.get("bytes") is not None:
        return f"bytes:{hashlib.sha256(ref['bytes']).hexdigest()[:32]}"
    if ref.get("digest"):
        return f"bytes:{ref['digest']}"
    path = os.path.realpath(ref.get("path") or "")
    if not os.path.isfile(path):
        return f"file:missing:{path}"
    found = os.stat(path)
    return f"file:{found.st_size}:{found.st_mtime_ns}:{path}"
