"""LLaVA form: `id`, `image` (a path, a list of paths, or absent), `conversations` of `{"from", "value"}`."""

from collections.abc import Iterator, Mapping

from xgenmm_hf.data.adapters.base import Adapter, Context, Record, RejectedRecord, first_field, image_refs, list_of
from xgenmm_hf.data.adapters.markers import place_images
from xgenmm_hf.data.rows import Row, chat_row


ROLE_OF = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a LLaVA record into a chat row.

    Args:
        record: The record; images in `image` or `images`.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If turns are malformed, every answer is empty, or markers outnumber images.
    """
    turns = [_turn(turn, index) for index, turn in enumerate(list_of(record, "conversations"))]
    if not any(role == "assistant" and text.strip() for role, text in turns):
        raise RejectedRecord("no answer", "no turn of the assistant has any text")
    images = image_refs(record.get(first_field(record, ("image", "images")) or "image"), context)
    yield chat_row(id, context.source, place_images(turns, len(images)), images)


def _turn(turn: object, index: int) -> tuple[str, str]:
    """Returns the role and the text of one turn."""
    if not isinstance(turn, Mapping) or turn.get("from") not in ROLE_OF:
        speaker = turn.get("from") if isinstance(turn, Mapping) else turn
        raise RejectedRecord("roles", f"turn {index} is from {speaker!r:.40}; use human, gpt or system")
    if not isinstance(turn.get("value"), str):
        raise RejectedRecord("fields", f"turn {index} has no text: its value is {turn.get('value')!r:.40}")
    return ROLE_OF[turn["from"]], turn["value"]


ADAPTER = Adapter("llava", convert, lambda record: "conversations" in record, "chat")
