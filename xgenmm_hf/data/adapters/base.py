"""What a data adapter is: a function from one record of a public format to training rows."""

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xgenmm_hf.data.addresses import AddressTable
from xgenmm_hf.data.fields import ADDRESS_FIELDS, IMAGE_FIELDS, Record, RejectedRecord, SkippedRecord, first_field
from xgenmm_hf.data.image_refs import PathRefused, Roots, image_ref, png_bytes
from xgenmm_hf.data.rows import ImageRef, Row
from xgenmm_hf.modeling.images_xgenmm import ADDRESS, read_image


# How JPEG, PNG, GIF and WebP begin in base64.
BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")


@dataclass(frozen=True)
class Context:
    """Where a record comes from, and what its adapter may use.

    `roots` resolve paths, `addresses` find images by address (None: those are refused), `notes` count oddities
    that were accepted.
    """

    source: str
    roots: Roots = field(default_factory=Roots)
    options: Mapping[str, Any] = field(default_factory=dict)
    addresses: AddressTable | None = None
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Adapter:
    """One public format.

    `convert` is called with (record, id, context), the id unique within the source; it yields rows, or raises a
    `RecordProblem`. `matches` tells from a record whether it is of this format.
    """

    name: str
    convert: Callable[[Record, str, Context], Iterable[Row]]
    matches: Callable[[Record], bool]
    kind: str | Callable[[Record], str]
    options: frozenset[str] = frozenset()

    def kind_of(self, record: Record) -> str:
        """Returns the kind of the rows that a record becomes."""
        return self.kind if isinstance(self.kind, str) else self.kind(record)


def images_of(record: Record, context: Context, names: Iterable[str] = IMAGE_FIELDS) -> list[ImageRef]:
    """Returns references to the images of a record, from the first of `names` that it has, or by its address."""
    column = context.options.get("image_column") or first_field(record, names)
    if column is not None:
        return image_refs(record.get(column), context)
    addresses = [name for name in ADDRESS_FIELDS if isinstance(record.get(name), str)]
    if not addresses or "url" not in addresses and context.addresses is None:
        return []
    if context.addresses is None:
        return image_refs(record["url"], context)
    for name in addresses:
        if (found := context.addresses.find(name, record[name])) is not None:
            return [found]
    raise _not_downloaded(record[addresses[0]])


def image_refs(value: Any, context: Context) -> list[ImageRef]:
    """Returns references to the images of a field, which holds one image or a list."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)) and not (value and isinstance(value[0], list)):
        return [ref for item in value for ref in _one_image(item, context)]
    return _one_image(value, context)


def _one_image(value: Any, context: Context) -> list[ImageRef]:
    """Returns a list with the reference to one image, or an empty list for an empty path."""
    path = None
    if isinstance(value, Mapping):
        path, data = value.get("path"), value.get("bytes")
        value = path if data is None else data
    if isinstance(value, str) and not value.strip():
        context.notes["empty image"] += 1
        return []
    if isinstance(value, str):
        return [_by_text(value, context)]
    return [image_ref(path, bytes(value) if isinstance(value, (bytes, bytearray)) else _encode(value))]


def _by_text(value: str, context: Context) -> ImageRef:
    head, _, body = value.partition(",") if value.startswith("data:") else ("", "", value)
    if head.endswith(";base64") or (not head and value.startswith(BASE64)):
        try:
            return image_ref(None, base64.b64decode(body, validate=True))
        except binascii.Error as error:
            raise RejectedRecord("image", f"an image in base64 is damaged ({error})") from None
    if context.addresses is not None and ADDRESS.match(value):
        found = context.addresses.find("url", value)
        if found is None:
            raise _not_downloaded(value)
        return found
    try:
        return image_ref(context.roots.resolve(value))
    except PathRefused as error:
        raise RejectedRecord("path", str(error)) from None


def _encode(value: Any) -> bytes:
    try:
        return png_bytes(read_image(np.asarray(value) if isinstance(value, list) else value))
    except (ValueError, TypeError, OverflowError) as error:
        what = f"an image is given as {value!r:.60} ({error})"
        raise RejectedRecord("image", f"{what}; it must be a path, encoded bytes, or an array of 0-255") from None


def _not_downloaded(value: str) -> SkippedRecord:
    return SkippedRecord("not downloaded", f"the image {value!r:.200} is not among the downloaded ones")
