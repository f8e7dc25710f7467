"""Which rows of which source tensors make which target tensor.

A plan is made from names and shapes alone, checked, and then followed tensor by tensor. Everything conversion does to
weights is renaming and moving rows: the original's decoupled matrices (``initial_tokenizer_len`` rows of the old one,
padding rows that no id reaches, three additional rows) become one matrix, and stacked query-key-value projections
of OpenCLIP towers become three. Nothing is computed, so the way back is exact.
"""

import functools
from collections import defaultdict
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
    """A tensor to write: its pieces, stacked and reshaped to the given shape."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass
class Plan:
    """Every tensor to write, and what becomes of the rest."""

    targets: list[Target]  # in writing order
    # unused rows of the original's embedding and head, by the original's name without prefix
    padding: list[Target] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # source tensors that no feature depends on


def listed(names: Iterable[str]) -> str:
    """Returns names for an error message: the first five, and the number of the others."""
    ordered = sorted(names)
    rest = len(ordered) - _MAX_LISTED
    return ", ".join(ordered[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def plan_conversion(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], first_added_id: int) -> Plan:
    """Plans the way from the original's tensors to ours."""
    names = canonical_names(shapes)
    kind = key_map.tower_format(names)
    folded = {original for pair in key_map.FOLDED.values() for original in pair}
    plan, unplaced = Plan([]), []
    pieces: defaultdict[str, list[Piece]] = defaultdict(list)
    for name, raw in names.items():
        if name in folded:
            continue
        if key_map.is_unused(name, kind):
            plan.dropped.append(raw)
            continue
        ours, rows = key_map.translate(name, key_map.all_pairs(kind)), _num_rows(shapes[raw])
        parts = "qkv" if ours is not None and "{qkv}" in ours else " "
        if ours is None or rows % len(parts):
            unplaced.append(raw)
            continue
        for index, part in enumerate(parts):
            start, stop = (rows * edge // len(parts) for edge in (index, index + 1))
            pieces[ours.replace("{qkv}", part)].append(Piece(raw, start, stop))
    for target, originals in key_map.FOLDED.items():
        if _has_both(originals, names):
            old, added = (names[original] for original in originals)
            rows = _num_rows(shapes[old])
            if rows < first_added_id:
                raise ValueError(
                    f"{old} has {rows} rows, fewer than the {first_added_id} tokens that the config states "
                    "(initial_tokenizer_len); pass the config.json of this checkpoint."
                )
            pieces[target] = [Piece(old, 0, first_added_id), Piece(added, 0, _num_rows(shapes[added]))]
            if rows > first_added_id:
                shape = (rows - first_added_id, *shapes[old][1:])
                plan.padding.append(Target(originals[0], shape, (Piece(old, first_added_id, rows),)))
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


def _num_rows(shape: Shape) -> int:
    return shape[0] if shape else 1


def _has_both(originals: tuple[str, str], names: Mapping[str, str]) -> bool:
    """Tells whether a decoupled matrix is there; half of one is an error."""
    absent = [name for name in originals if name not in names]
    if len(absent) == 1:
        present = next(name for name in originals if name in names)
        raise ValueError(
            f"The checkpoint lacks {absent[0]}, the other half of {names[present]}; check that it has all its files."
        )
    return not absent


def _check(
    pieces: Mapping[str, list[Piece]], unplaced: list[str], shapes: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> None:
    """Raises a ValueError that names every tensor that is unknown, missing, filled twice or of the wrong shape."""
    unknown = {*unplaced, *(piece.source for name in pieces.keys() - expected.keys() for piece in pieces[name])}
    missing = expected.keys() - pieces.keys()
    built = {name: _built_shape(parts, shapes) for name, parts in pieces.items() if name in expected}
    misfits = {name for name, shape in built.items() if not _fits(shape, tuple(expected[name]))}
    shown = listed(f"{name}: {built[name]} instead of {tuple(expected[name])}" for name in misfits)
    problems = [
        (unknown, f"tensors have no place in the model ({listed(unknown)})"),
        (missing, f"tensors of the model are not in the checkpoint ({listed(missing)})"),
        (misfits, f"tensors have another shape ({shown})"),
    ]
    said = [f"{len(names)} {what}" for names, what in problems if names]
    if said:
        advice = _advice(missing | misfits, missing)
        raise ValueError(f"The checkpoint does not fit its config: {'; '.join(said)}. {advice}")


def _advice(touched: set[str], missing: set[str]) -> str:
    if missing and touched == missing and all(name.startswith(key_map.TOWER) for name in missing):
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
            may_overflow = dtype == torch.float16 != block.dtype and not block.is_meta
            if may_overflow and not torch.equal(copied.isfinite(), block.isfinite()):
                raise ValueError(
                    f"{piece.source} holds values beyond float16's range; convert to bfloat16 or float32 instead."
                )
    return rows.reshape(target.shape)


def describe(
    targets: Iterable[Target], sources: Mapping[str, "torch.Tensor"], dtype: "torch.dtype | None" = None
) -> "dict[str, torch.Tensor]":
    """Builds targets without values (on the meta device) from such sources: their names, shapes and dtypes."""
    targets = list(targets)
    used = {piece.source: sources[piece.source].dtype for target in targets for piece in target.pieces}
    odd = [
        f"{name} ({str(found).removeprefix('torch.')})"
        for name, found in used.items()
        if not found.is_floating_point or found.itemsize < 2
    ]
    if odd:
        raise ValueError(
            f"These tensors hold no floating-point numbers: {listed(odd)}; quantised weights do not convert."
        )
    return {target.name: assemble(target, sources.__getitem__, dtype) for target in targets}


def plan_export(shapes: Mapping[str, Shape], padding: Mapping[str, Shape], first_added_id: int, kind: str) -> Plan:
    """Plans the way from our tensors back to the original's."""
    pieces: defaultdict[str, list[Piece]] = defaultdict(list)
    unplaced = []
    for name, shape in shapes.items():
        if name in key_map.FOLDED:
            old, added = key_map.FOLDED[name]
            pieces[old] = [Piece(name, 0, first_added_id)]
            if old in padding:
                pieces[old].append(Piece(old, 0, _num_rows(padding[old])))
            pieces[added] = [Piece(name, first_added_id, shape[0])]
            continue
        original = key_map.translate(name, key_map.all_pairs(kind), reverse=True)
        if original is None:
            unplaced.append(name)
        else:
            pieces[original].append(Piece(name, 0, _num_rows(shape)))
    if unplaced:
        raise ValueError(f"These tensors have no place in the original layout: {listed(unplaced)}.")
    all_shapes = {**shapes, **padding}
    return Plan(
        [
            Target(key_map.ORIGINAL_PREFIX + name, _built_shape(parts, all_shapes), tuple(_in_qkv_order(parts)))
            for name, parts in pieces.items()
        ]
    )


def _in_qkv_order(pieces: list[Piece]) -> list[Piece]:
    if len(pieces) != 3:
        return pieces
    return sorted(pieces, key=lambda piece: "qkv".index(piece.source.rsplit(".", 2)[-2][0]))
