"""Which rows of which source tensors make which target tensor.

A plan is made from names and shapes alone, checked, and then followed tensor by tensor. Everything conversion does to
weights is renaming and moving rows: the original's decoupled matrices (``initial_tokenizer_len`` rows of the old one,
padding rows that no id reaches, three additional rows) become one matrix, and stacked query-key-value projections
of OpenCLIP towers become three. Nothing is computed, so the way back is exact.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from xgenmm_hf.conversion import key_map


if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
_MAX_LISTED = 5
_BLOCK_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` (exclusive) of the source tensor called `source`."""

    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Target:
    """A tensor to write: its pieces on top of each other, in the given shape."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass
class Plan:
    """Every tensor to write, and what becomes of the rest.

    Attributes:
        targets: Tensors of the model, in writing order.
        padding: Unused rows of the original's embedding and head, by the original's name without prefix.
        dropped: Source tensors that no feature depends on.
    """

    targets: list[Target]
    padding: list[Target] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def listed(names: Iterable[str]) -> str:
    """Returns names as they stand in an error message, the first five and how many more there are."""
    ordered = sorted(names)
    rest = len(ordered) - _MAX_LISTED
    return ", ".join(ordered[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: BaseException) -> str:
    """Returns another library's message on one line, without a full stop, to stand inside ours."""
    return " ".join(str(error).split()).rstrip(".")


def plan_conversion(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], first_added_id: int) -> Plan:
    """Plans the way from the original's tensors to ours."""
    names = canonical_names(shapes)
    pieces: dict[str, list[Piece]] = {}
    plan, unplaced = Plan([]), []
    folded = {original for pair in key_map.FOLDED.values() for original in pair}
    kind = key_map.tower_format(name.removeprefix(key_map.ORIGINAL_TOWER) for name in names)
    for name, raw in names.items():
        if name in folded:
            continue
        in_tower = name.removeprefix(key_map.ORIGINAL_TOWER) if name.startswith(key_map.ORIGINAL_TOWER) else None
        if in_tower is not None and kind is not None and key_map.is_unused(in_tower, kind):
            plan.dropped.append(raw)
            continue
        if in_tower is not None:
            found = _tower_pieces(in_tower, raw, shapes[raw], kind)
        else:
            ours = key_map.translate(name, key_map.RESAMPLER + key_map.LANGUAGE)
            found = [] if ours is None else [(ours, _whole(raw, shapes[raw]))]
        if not found:
            unplaced.append(raw)
        for ours, piece in found:
            pieces.setdefault(ours, []).append(piece)
    for ours, originals in key_map.FOLDED.items():
        if _has_both(originals, names):
            old, added = (names[original] for original in originals)
            pieces[ours], padding = _fold(old, added, shapes, first_added_id)
            plan.padding += [Target(originals[0], shape, (rows,)) for rows, shape in padding]
    _check(pieces, unplaced, shapes, expected)
    plan.targets = [Target(name, tuple(shape), tuple(pieces[name])) for name, shape in expected.items()]
    return plan


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Maps plain original names (no `vlm.`, no training wrappers, one form of tower names) to the given ones."""
    plain: dict[str, str] = {}
    for raw in names:
        name = key_map.strip_wrappers(raw)
        if name.startswith(key_map.ORIGINAL_TOWER):
            inner = name.removeprefix(key_map.ORIGINAL_TOWER)
            name = key_map.ORIGINAL_TOWER + inner.removeprefix("vision_model.").removeprefix("visual.")
        if name in plain:
            raise ValueError(f"The checkpoint holds one tensor twice: {plain[name]} and {raw}; remove one of them.")
        plain[name] = raw
    return plain


def _tower_pieces(name: str, raw: str, shape: Shape, kind: str | None) -> list[tuple[str, Piece]]:
    if kind is None:
        return []
    ours = key_map.translate(name, key_map.TOWER_PAIRS[kind])
    if ours is not None:
        return [(key_map.TOWER + ours, _whole(raw, shape))]
    stacked = key_map.translate(name, key_map.TOWER_STACKED[kind])
    if stacked is None or not shape or shape[0] % 3:
        return []
    rows = shape[0] // 3
    return [
        (key_map.TOWER + stacked.replace("{qkv}", letter), Piece(raw, index * rows, (index + 1) * rows))
        for index, letter in enumerate("qkv")
    ]


def _whole(raw: str, shape: Shape) -> Piece:
    return Piece(raw, 0, shape[0] if shape else 1)


def _has_both(originals: tuple[str, str], names: Mapping[str, str]) -> bool:
    """Tells whether a decoupled matrix is there; half of one is an error."""
    present, absent = ([name for name in originals if (name in names) == there] for there in (True, False))
    if present and absent:
        raise ValueError(
            f"The checkpoint lacks {absent[0]}, the other half of {names[present[0]]}; "
            "check that all of its files are there."
        )
    return bool(present)


def _fold(
    old: str, added: str, shapes: Mapping[str, Shape], first_added_id: int
) -> tuple[list[Piece], list[tuple[Piece, Shape]]]:
    """Returns the pieces of one decoupled matrix, and its padding rows with their shape."""
    rows = shapes[old][0] if shapes[old] else 0
    if rows < first_added_id:
        raise ValueError(
            f"{old} has {rows} rows, fewer than the {first_added_id} tokens that the config states "
            "(initial_tokenizer_len); pass the config.json of this checkpoint."
        )
    padding = [(Piece(old, first_added_id, rows), (rows - first_added_id, *shapes[old][1:]))]
    used = [Piece(old, 0, first_added_id), _whole(added, shapes[added])]
    return used, padding if rows > first_added_id else []


def _check(
    pieces: Mapping[str, list[Piece]],
    unplaced: list[str],
    shapes: Mapping[str, Shape],
    expected: Mapping[str, Shape],
) -> None:
    """Raises a ValueError that names every tensor which is unknown, missing, filled twice or mis-shaped."""
    unknown = list(unplaced) + [piece.source for ours in set(pieces) - set(expected) for piece in pieces[ours]]
    missing = set(expected) - set(pieces)
    problems = []
    if unknown:
        problems.append(f"{len(unknown)} tensors have no place in the model ({listed(set(unknown))})")
    if missing:
        problems.append(f"{len(missing)} tensors of the model are not in the checkpoint ({listed(missing)})")
    misfits = [
        f"{name}: {built} instead of {tuple(expected[name])}"
        for name in pieces
        if name in expected and not _fits(built := _built_shape(pieces[name], shapes), tuple(expected[name]))
    ]
    if misfits:
        problems.append(f"{len(misfits)} tensors have another shape ({listed(misfits)})")
    if not problems:
        return
    touched = missing | {misfit.split(":")[0] for misfit in misfits}
    raise ValueError(f"The checkpoint does not fit its config: {'; '.join(problems)}. {_advice(touched, missing)}")


def _advice(touched: set[str], missing: set[str]) -> str:
    tower_missing = [name for name in missing if name.startswith(key_map.TOWER)]
    if tower_missing and len(tower_missing) == len(missing) == len(touched):
        return "If the vision tower was left out of it, name one with --vision-encoder."
    if touched and all(name.startswith((key_map.TOWER, "model.resampler.")) for name in touched):
        return "The vision tower does not fit: describe it with --vision-config or name another one."
    return "Pass the config.json that belongs to these weights and check that all files are there."


def _built_shape(pieces: list[Piece], shapes: Mapping[str, Shape]) -> Shape:
    trailing = tuple(shapes[pieces[0].source][1:])
    if any(tuple(shapes[piece.source][1:]) != trailing for piece in pieces):
        return tuple(shapes[pieces[-1].source])
    return (sum(piece.stop - piece.start for piece in pieces), *trailing)


def _fits(built: Shape, wanted: Shape) -> bool:
    # timm keeps a batch axis of one on position embeddings.
    return built == wanted or (len(built) == len(wanted) + 1 and built[0] == 1 and built[1:] == wanted)


def assemble(
    target: Target, load: Callable[[str], "torch.Tensor"], dtype: "torch.dtype | None" = None
) -> "torch.Tensor":
    """Builds a target tensor in memory."""
    import torch

    parts = [load(piece.source) for piece in target.pieces]
    dtype = dtype or functools.reduce(torch.promote_types, (part.dtype for part in parts))
    if len(parts) == 1 and parts[0].dtype == dtype:
        return parts[0][target.pieces[0].start : target.pieces[0].stop].reshape(target.shape)
    trailing, device = parts[0].shape[1:], parts[0].device
    del parts
    rows = torch.empty(
        (sum(piece.stop - piece.start for piece in target.pieces), *trailing), dtype=dtype, device=device
    )
    step, filled = max(1, _BLOCK_NUMBERS // max(1, prod(trailing))), 0
    for piece in target.pieces:
        for start in range(piece.start, piece.stop, step):
            block = load(piece.source)[start : min(start + step, piece.stop)]
            copied = rows[filled : filled + len(block)].copy_(block)
            filled += len(block)
            if dtype == torch.float16 != block.dtype and not torch.equal(copied.isfinite(), block.isfinite()):
                raise ValueError(
                    f"{piece.source} holds values beyond float16's range; convert to bfloat16 or float32 instead."
                )
    return rows.reshape(target.shape)


def plan_export(shapes: Mapping[str, Shape], padding: Mapping[str, Shape], first_added_id: int, kind: str) -> Plan:
    """Plans the way from our tensors back to the original's."""
    pieces: dict[str, list[Piece]] = {}
    unplaced = []
    for name, shape in shapes.items():
        if name in key_map.FOLDED:
            old, added = key_map.FOLDED[name]
            pieces[old] = [Piece(name, 0, first_added_id)]
            if old in padding:
                pieces[old].append(_whole(old, padding[old]))
            pieces[added] = [Piece(name, first_added_id, shape[0])]
            continue
        original = _original_name(name, kind)
        if original is None:
            unplaced.append(name)
        else:
            pieces.setdefault(original, []).append(_whole(name, shape))
    if unplaced:
        raise ValueError(f"These tensors have no place in the original layout: {listed(unplaced)}.")
    all_shapes = {**shapes, **padding}
    return Plan(
        [
            Target(key_map.ORIGINAL_PREFIX + name, _built_shape(parts, all_shapes), tuple(_in_qkv_order(parts)))
            for name, parts in pieces.items()
        ]
    )


def _original_name(name: str, kind: str) -> str | None:
    if not name.startswith(key_map.TOWER):
        return key_map.translate(name, key_map.RESAMPLER + key_map.LANGUAGE, reverse=True)
    pairs = key_map.TOWER_PAIRS[kind] + key_map.TOWER_STACKED[kind]
    inner = key_map.translate(name.removeprefix(key_map.TOWER), pairs, reverse=True)
    return None if inner is None else key_map.ORIGINAL_TOWER + inner


def _in_qkv_order(pieces: list[Piece]) -> list[Piece]:
    if len(pieces) != 3:
        return pieces
    return sorted(pieces, key=lambda piece: "qkv".index(piece.source.rsplit(".", 2)[-2][0]))
