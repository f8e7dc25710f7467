"""VLGuard's `train.json`: `image`, `safe`, and `instr-resp` with the instructions and their responses.

Source: https://huggingface.co/datasets/ys-zong/VLGuard (an unsafe image has one `instruction`; a safe one has a
`safe_instruction` and an `unsafe_instruction`; each with its `response`).
"""

from collections.abc import Iterator, Mapping

from xgenmm_hf.data.adapters.base import (
    Adapter,
    Context,
    Record,
    RejectedRecord,
    first_field,
    image_refs,
    list_of,
    text_of,
)
from xgenmm_hf.data.rows import Row, chat_row, image_part, message


KIND_OF = {
    (False, "instruction"): "unsafe_image",
    (True, "unsafe_instruction"): "unsafe_instruction",
    (True, "safe_instruction"): "safe",
}


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record into a chat row for each of its instructions.

    Args:
        record: The record.
        id: Id of the record; the rows' have the kind behind a slash.
        context: Where the record comes from.

    Yields:
        Rows whose source ends in the example kind: `unsafe_image`, `unsafe_instruction` or `safe`.

    Raises:
        RejectedRecord: If the flag, the image or an instruction is missing.
    """
    safe = record.get("safe")
    if not isinstance(safe, bool):
        raise RejectedRecord("fields", f"safe is {safe!r:.20}; it must be true or false")
    images = image_refs(record.get(first_field(record, ("image", "images")) or "image"), context)
    if len(images) != 1:
        raise RejectedRecord("image", f"the record has {len(images)} images instead of one")
    pairs = list_of(record, "instr-resp")
    if not pairs:
        raise RejectedRecord("fields", "instr-resp is empty")
    rows: list[Row] = []
    for pair in pairs:
        if not isinstance(pair, Mapping):
            raise RejectedRecord("fields", "instr-resp must be a list of mappings")
        # Read through `datasets`, each pair has all fields, the missing ones as None.
        names = [name for (flag, name) in KIND_OF if flag == safe and pair.get(name) is not None]
        if len(names) != 1:
            held = sorted(name for name in pair if pair[name] is not None)
            raise RejectedRecord("fields", f"a pair of a {'safe' if safe else 'unsafe'} image holds {held}")
        kind = KIND_OF[safe, names[0]]
        question = message("user", image_part(), text_of(pair, names[0]))
        answer = message("assistant", text_of(pair, "response"))
        suffix = "" if not any(row["id"] == f"{id}/{kind}" for row in rows) else f"-{len(rows)}"
        rows.append(chat_row(f"{id}/{kind}{suffix}", f"{context.source}/{kind}", [question, answer], images))
    yield from rows


ADAPTER = Adapter("vlguard", convert, lambda record: "instr-resp" in record, "chat")
