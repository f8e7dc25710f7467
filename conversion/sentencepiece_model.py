"""SentencePiece BPE models (`tokenizer.model`) without the sentencepiece library: read, write, and their merges.

The file is one protobuf message, of which only the pieces and a few settings matter. A merge of two pieces is allowed
wherever their concatenation is a piece, and better-scored pieces are merged first.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BPE = 2
# Field numbers of sentencepiece_model.proto.
PIECES, TRAINER_SPEC, NORMALIZER_SPEC = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3
MODEL_TYPE, VOCAB_SIZE, BYTE_FALLBACK, UNK_ID, BOS_ID, EOS_ID, PAD_ID = 3, 4, 35, 40, 41, 42, 43
NORMALIZER_NAME, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = 1, 3, 4, 5
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary.

    Args:
        text: Its characters, `▁` for a space.
        score: Higher is merged first.
        kind: `NORMAL`, `UNKNOWN`, `CONTROL` or `BYTE`.
    """

    text: str
    score: float = 0.0
    kind: int = NORMAL


def read_sentencepiece(path: Path) -> list[Piece]:
    """Reads the pieces of a SentencePiece BPE model, in the order of their ids.

    Args:
        path: A `tokenizer.model`.

    Returns:
        The pieces.

    Raises:
        ValueError: If the file is none, or holds another kind of model.
    """
    pieces, model_type = [], None
    try:
        for number, value in _fields(Path(path).read_bytes()):
            if number == PIECES:
                fields = dict(_fields(value))
                score = struct.unpack("<f", fields[PIECE_SCORE])[0] if PIECE_SCORE in fields else 0.0
                pieces.append(Piece(fields[PIECE_TEXT].decode("utf-8"), score, fields.get(PIECE_TYPE, NORMAL)))
            elif number == TRAINER_SPEC:
                model_type = dict(_fields(value)).get(MODEL_TYPE)
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is no SentencePiece model ({error}). Download the file again.") from error
    if not pieces or model_type != BPE:
        raise ValueError(f"{path} is no SentencePiece model of type BPE. Only such tokenizers can be converted.")
    return pieces


def write_sentencepiece(path: Path, pieces: Sequence[Piece]) -> None:
    """Writes a SentencePiece BPE model with Llama's settings.

    Args:
        path: The file to write.
        pieces: The pieces in the order of their ids; the first three are the unknown, begin and end token.
    """
    message = bytearray()
    for piece in pieces:
        fields = _field(PIECE_TEXT, piece.text.encode()) + _field(PIECE_SCORE, piece.score)
        message += _field(PIECES, fields + _field(PIECE_TYPE, piece.kind))
    settings = {
        MODEL_TYPE: BPE,
        VOCAB_SIZE: len(pieces),
        BYTE_FALLBACK: 1,
        UNK_ID: 0,
        BOS_ID: 1,
        EOS_ID: 2,
        PAD_ID: -1,
    }
    message += _field(TRAINER_SPEC, b"".join(_field(number, value) for number, value in settings.items()))
    switches = {ADD_DUMMY_PREFIX: 1, REMOVE_EXTRA_WHITESPACES: 0, ESCAPE_WHITESPACES: 1}
    normalizer = _field(NORMALIZER_NAME, b"identity") + b"".join(_field(*switch) for switch in switches.items())
    Path(path).write_bytes(bytes(message + _field(NORMALIZER_SPEC, normalizer)))


def merges_from_pieces(pieces: Sequence[Piece]) -> list[list[str]]:
    """Lists the merges that a SentencePiece BPE model allows, best first.

    Args:
        pieces: The pieces in the order of their ids.

    Returns:
        Pairs of pieces.
    """
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == NORMAL}
    ranked = sorted((piece for piece in pieces if piece.kind == NORMAL), key=lambda piece: -piece.score)
    merges = []
    for piece in ranked:
        splits = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        allowed = [split for split in splits if split[0] in ids and split[1] in ids]
        merges += [list(split) for split in sorted(allowed, key=lambda split: (ids[split[0]], ids[split[1]]))]
    return merges


def pieces_from_merges(vocab: dict[str, int], merges: Iterable[str | Sequence[str]]) -> list[Piece] | None:
    """Finds scores that make a SentencePiece BPE model of a vocabulary with merges.

    Args:
        vocab: Id of each piece; the first three are the unknown, begin and end token.
        merges: Pairs of pieces, best first.

    Returns:
        The pieces in the order of their ids, or None where SentencePiece would merge other pairs or in another order.
    """
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    rank: dict[str, int] = {}
    for pair in pairs:
        rank.setdefault("".join(pair), len(rank))
    pieces = []
    for index, text in enumerate(sorted(vocab, key=vocab.__getitem__)):
        if index < 3:
            pieces.append(Piece(text, 0.0, CONTROL if index else UNKNOWN))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces.append(Piece(text, 0.0, BYTE))
        else:
            pieces.append(Piece(text, -float(rank.get(text, len(rank)))))
    wanted = merges_from_pieces(pieces)
    order = [rank["".join(pair)] for pair in pairs]
    if {tuple(pair) for pair in wanted} != set(pairs) or order != sorted(order):
        return None
    return pieces


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields the fields of a protobuf message: numbers as int, everything else as bytes."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        kind = key & 7
        if kind == VARINT:
            value, position = _read_varint(message, position)
            yield key >> 3, value
            continue
        if kind == LENGTH:
            size, position = _read_varint(message, position)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + size > len(message):
            raise ValueError("the file is cut off")
        yield key >> 3, message[position : position + size]
        position += size


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Reads an integer and returns it with the position behind it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _field(number: int, value: bytes | int | float) -> bytes:
    """Encodes one field; a negative integer takes the ten bytes that protobuf gives it."""
    if isinstance(value, bytes):
        return _varint(number << 3 | LENGTH) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | FIXED32) + struct.pack("<f", value)
    return _varint(number << 3 | VARINT) + _varint(value % 2**64)


def _varint(value: int) -> bytes:
    """Encodes a non-negative integer."""
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
