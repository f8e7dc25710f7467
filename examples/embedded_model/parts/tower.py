"""The embedded model's eyes before any language: what stands where, patch by patch, and through the resampler.

Questions alone teach a tower very slowly. First every patch of every tile must tell what is drawn at its centre, by
linear heads on the tower's output. Then, with the tower frozen, the resampler's tokens must still tell it for every
patch of the overview: a small reader with a query a patch attends to the image's tokens. Heads and reader are
thrown away.

Shape legend: num_images images have num_tiles tiles of num_patches patches; an image takes up to max_tokens tokens
of width `width`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from embedded_model.parts.labels import (
    CLASSES,
    INK_CELLS,
    PLACE_CLASSES,
    WHOLE_IMAGE,
    count_ink,
    draw_busy_image,
    label_patches,
    label_places,
    tile_boxes,
)
from embedded_model.world.language import PLACES


NOTHING = -100
_EDGE_SCALE = 4.0
_INK_WEIGHT = 4.0


class TileDataset(Dataset):
    """Drawn images as tiles with the labels of all their patches; item i is image i of the stream."""

    def __init__(self, image_processor: Any, side: int, num_images: int, first_seed: int, split: str):
        """Sets the stream up.

        Args:
            image_processor: an `XGenMMImageProcessor`.
            side: patches along a tile's side.
            num_images: length of the stream.
            first_seed: seed of its first image.
            split: `TRAIN` or `HELD_OUT`.
        """
        self.image_processor, self.side = image_processor, side
        self.num_images, self.first_seed, self.split = num_images, first_seed, split

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Returns `pixel_values` of one image and its patches' `classes`, `edges` and `ink`."""
        scene, image = draw_busy_image(self.first_seed + index, self.split)
        tiles = self.image_processor(image)["pixel_values"]
        grids, size = self.image_processor.anyres_grids, self.image_processor.size["height"]
        labels = label_patches(scene, tile_boxes(image.height, image.width, grids, size), self.side)
        ink = count_ink(scene, tiles, labels.classes, self.side)
        return {"pixel_values": tiles, "classes": labels.classes, "edges": labels.edges, "ink": ink}


class ImageDataset(TileDataset):
    """Drawn images as the model takes them, with the classes of the overview's patches and of the named places."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Returns the image processor's outputs for one image, its `classes` and its `places`, each with a row."""
        scene, image = draw_busy_image(self.first_seed + index, self.split)
        classes = label_patches(scene, [WHOLE_IMAGE], self.side).classes
        return {**self.image_processor(image), "classes": classes, "places": label_places(scene)[None]}


def join_rows(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Puts the tensors of several images one after another."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class ClassHeads(nn.ModuleDict):
    """A linear classifier for each kind of patch class."""

    def __init__(self, width: int):
        """Makes heads for features of the given width."""
        super().__init__({name: nn.Linear(width, count) for name, count in CLASSES.items()})

    def compare(self, features: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compares what the heads tell with the truth.

        Color and background are told of every patch; the rest only where something of the kind is drawn, lest the
        many empty patches drown it.

        Args:
            features: (rows, num_patches, width).
            classes: (rows, num_patches, len(CLASSES)).

        Returns:
            The loss, summed over the kinds, and for each patch and kind whether it is right, (rows, num_patches,
            len(CLASSES)).
        """
        loss, right = features.new_zeros((), dtype=torch.float32), []
        for index, (name, head) in enumerate(self.items()):
            logits, truth = head(features).float(), classes[..., index]
            wanted = truth if name in ("color", "background") else truth.masked_fill(truth == 0, NOTHING)
            loss = loss + nn.functional.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=NOTHING)
            right.append(logits.argmax(-1) == truth)
        return loss, torch.stack(right, dim=-1)


class DenseTower(nn.Module):
    """A vision tower that must tell what its patches show."""

    def __init__(self, tower: nn.Module, width: int):
        """Puts untrained heads on a tower that returns `last_hidden_state` (num_tiles, num_patches, width)."""
        super().__init__()
        self.tower = tower
        self.heads = ClassHeads(width)
        self.edges = nn.Linear(width, 4)
        self.ink = nn.Linear(width, INK_CELLS * INK_CELLS)

    def forward(
        self, pixel_values: torch.Tensor, classes: torch.Tensor, edges: torch.Tensor, ink: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Returns the `loss`, and `right` as `ClassHeads.compare`."""
        features = self.tower(pixel_values).last_hidden_state
        loss, right = self.heads.compare(features, classes)
        filled = (edges[..., :1] > 0).float()
        distance = (self.edges(features).float() - _EDGE_SCALE * edges).abs() * filled
        loss = loss + distance.sum() / (4 * filled.sum().clamp(min=1))
        loss = loss + _INK_WEIGHT * nn.functional.binary_cross_entropy_with_logits(self.ink(features).float(), ink)
        return {"loss": loss, "right": right}


class TokenReader(nn.Module):
    """Reads off an image's tokens what each patch of the overview shows.

    Each of the image's first tokens also has to tell by itself what stands at one of the named places: what belongs
    together is then in one token, where the language model finds it with one look.
    """

    def __init__(
        self, encode: Callable[..., Any], resampler: nn.Module, num_patches: int, max_tokens: int, width: int
    ):
        """Sets up an untrained reader.

        Args:
            encode: the model's `get_image_features`.
            resampler: the part of the model that is trained; it is held here so that the optimizer finds it.
            num_patches: patches of the overview.
            max_tokens: tokens of an image at most.
            width: width of the tokens.
        """
        super().__init__()
        self.encode, self.resampler = encode, resampler
        self.queries = nn.Parameter(0.5 * torch.randn(num_patches, width))
        self.positions = nn.Parameter(0.5 * torch.randn(max_tokens, width))
        self.layers = nn.ModuleList([_ReaderLayer(width) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.heads = ClassHeads(width)
        self.place_heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in PLACE_CLASSES.items()})
        self.place_name = nn.Linear(width, len(PLACES))

    def forward(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor,
        image_num_tiles: torch.Tensor,
        classes: torch.Tensor,
        places: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Returns the `loss`, and for each place and kind of class whether it is right in `right`."""
        images = self.encode(pixel_values, image_sizes, image_num_tiles).pooler_output
        tokens = nn.utils.rnn.pad_sequence(images, batch_first=True).float()
        lengths = torch.tensor([len(image) for image in images])
        padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
        place_loss, right = self._compare_places(self.norm(tokens[:, : len(PLACES)]), places)
        tokens = self.norm(tokens) + self.positions[: tokens.shape[1]]
        states = self.queries.expand(len(images), -1, -1)
        for layer in self.layers:
            states = layer(states, tokens, padding)
        loss, _ = self.heads.compare(states, classes)
        return {"loss": loss + place_loss, "right": right}

    def _compare_places(self, tokens: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compares what the first tokens tell, one a named place, with what stands there.

        Args:
            tokens: (num_images, len(PLACES), width).
            places: (num_images, len(PLACES), len(PLACE_CLASSES)).

        Returns:
            The loss, and whether each place and kind of class is right.
        """
        compare = nn.functional.cross_entropy
        names = torch.arange(len(PLACES), device=tokens.device).repeat(len(tokens))
        loss, right = compare(self.place_name(tokens).float().flatten(0, 1), names), []
        for index, head in enumerate(self.place_heads.values()):
            logits = head(tokens).float()
            loss = loss + 2 * compare(logits.flatten(0, 1), places[..., index].flatten())
            right.append(logits.argmax(-1) == places[..., index])
        return loss, torch.stack(right, dim=-1)


class _ReaderLayer(nn.Module):
    """Cross-attention from patches to tokens, then a feed-forward part."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, states: torch.Tensor, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        update, _ = self.attention(self.norm(states), tokens, tokens, key_padding_mask=padding, need_weights=False)
        states = states + update
        return states + self.mlp(states)


def place_patches(tower: Any, side: int, width: int) -> None:
    """Starts a tower's position embeddings as waves over rows and columns, so that neighbours look alike at once.

    Args:
        tower: a SigLIP tower with `vision_model.embeddings.position_embedding`; it is changed in place.
        side: patches along a tile's side.
        width: width of the tower.
    """
    frequencies = 3.0 * side ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    waves = 0.5 * torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    grid = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    with torch.no_grad():
        tower.vision_model.embeddings.position_embedding.weight.copy_(grid)


def accuracy_by_class(right: torch.Tensor, classes: torch.Tensor) -> dict[str, float]:
    """Returns for each kind of class the share of right patches, or places, among those that show something of it."""
    names = list(CLASSES)[: classes.shape[-1]]
    return {name: right[..., index][classes[..., index] > 0].float().mean().item() for index, name in enumerate(names)}
