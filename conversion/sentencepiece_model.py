"""SentencePiece BPE models (`tokenizer.model`) and the merges of tokenizer.json, in both directions.

A merge of two pieces is allowed wherever their concatenation is a piece, and better-scored pieces are merged first.
Reading and writing the file takes the packages sentencepiece and protobuf.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BPE = 2


@dataclass(frozen=True)
class SubwordPiece:
    """A piece of the vocabulary: its characters (`▁` for a space), its score, and its kind."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


def is_available() -> bool:
    """Tells whether SentencePiece files can be read and written here."""
    from importlib.util import find_spec

    return find_spec("sentencepiece") is not None and find_spec("google.protobuf") is not None


def _message() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    make: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    return make.ModelProto()


def read_sentencepiece(path: Path) -> list[SubwordPiece]:
    """Reads the pieces of a SentencePiece BPE model, in the order of their ids."""
    if not is_available():
        raise ValueError(
            f"Reading {path} takes sentencepiece: pip install 'xgenmm-hf[sentencepiece]', or add the tokenizer.json."
        )
    from google.protobuf.message import DecodeError

    model = _message()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except (DecodeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model ({error}). Download the file again.") from error
    if not model.pieces or model.trainer_spec.model_type != BPE:
        raise ValueError(f"{path} is no SentencePiece model of type BPE. Only such tokenizers can be converted.")
    return [SubwordPiece(piece.piece, piece.score, piece.type) for piece in model.pieces]


def write_sentencepiece(path: Path, pieces: Sequence[SubwordPiece]) -> None:
    """Writes a SentencePiece BPE model with Llama's settings."""
    model = _message()
    for piece in pieces:
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = BPE, len(pieces), True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer.name, normalizer.add_dummy_prefix = "identity", True
    normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = False, True
    Path(path).write_bytes(model.SerializeToString())


def merges_from_pieces(pieces: Sequence[SubwordPiece]) -> list[list[str]]:
    """Lists the merges that a SentencePiece BPE model allows, best first, as pairs of pieces."""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == NORMAL}
    ranked = sorted((piece for piece in pieces if piece.kind == NORMAL), key=lambda piece: -piece.score)
    merges = []
    for piece in ranked:
        splits = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        allowed = [split for split in splits if split[0] in ids and split[1] in ids]
        merges += [list(split) for split in sorted(allowed, key=lambda split: (ids[split[0]], ids[split[1]]))]
    return merges


def pieces_from_merges(vocab: dict[str, int], merges: Iterable[str | Sequence[str]]) -> list[SubwordPiece] | None:
    """Finds scores that make a SentencePiece BPE model of a vocabulary with merges."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    rank: dict[str, int] = {}
    for pair in pairs:
        rank.setdefault("".join(pair), len(rank))
    pieces = []
    for index, text in enumerate(sorted(vocab, key=vocab.__getitem__)):
        if index < 3:
            pieces.append(SubwordPiece(text, 0.0, CONTROL if index else UNKNOWN))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces.append(SubwordPiece(text, 0.0, BYTE))
        else:
            pieces.append(SubwordPiece(text, -float(rank.get(text, len(rank)))))
    wanted = merges_from_pieces(pieces)
    order = [rank["".join(pair)] for pair in pairs]
    if {tuple(pair) for pair in wanted} != set(pairs) or order != sorted(order):
        return None
    return pieces
