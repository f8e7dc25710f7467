"""Features of tiles -> the chunks that the resampler samples, for all images of a batch at once.

Shapes: num_images images in num_tiles tiles of num_patches patches. A chunk is a tile, a
strip of the merged feature map in any-resolution mode (`tiling_xgenmm.tile_layout`), or an image with fixed sampling.
"""

from typing import Any, NamedTuple

import torch

from .configuration_xgenmm import XGenMMConfig
from .tiling_xgenmm import count_image_tokens, count_tiles, select_grids, tile_layout


class Condition(NamedTuple):
    """A condition on inputs, a bool or a tensor of one element, and the error message if it is false.

    Names in braces in the message stand for `values`. Formatting a tensor synchronises with the device, so the message
    is formatted only for an error.
    """

    holds: bool | torch.Tensor
    message: str
    values: dict[str, Any] = {}

    def error(self) -> ValueError:
        """Returns the error with its message formatted."""
        values = {name: getattr(value, "tolist", lambda value=value: value)() for name, value in self.values.items()}
        return ValueError(self.message.format(**values))


def resolve_num_tiles(
    config: XGenMMConfig,
    num_tiles: int,
    image_sizes: torch.Tensor | None,
    image_num_tiles: torch.Tensor | None,
    device: torch.device,
    mask: torch.Tensor | None = None,
    repeats: int = 1,
) -> torch.Tensor:
    """Checks all image inputs with one device synchronisation and returns the tiles per image, (num_images,).

    `image_sizes` are (height, width), (num_images, 2). Without `image_num_tiles`, each image has one tile if there
    are as many tiles as images; otherwise the tiles are counted from the sizes. `mask` is True at the prompts' image
    tokens, (B, L); `repeats` is how often the prompts show all images.
    """
    anyres = config.image_aspect_ratio == "anyres"
    tiled = anyres and image_sizes is not None and image_sizes.shape[0] != num_tiles
    if image_num_tiles is None and tiled and image_sizes is not None:
        image_num_tiles = count_tiles(image_sizes, config.anyres_grids, config.tile_size)
    elif image_num_tiles is None:
        image_num_tiles = torch.ones(num_tiles, dtype=torch.long, device=device)
    conditions = [
        Condition(
            image_num_tiles.sum() == num_tiles if anyres else image_num_tiles.shape[0] == num_tiles,
            "pixel_values holds {num_tiles} tiles, but image_num_tiles states {stated}; pass pixel_values, "
            "image_sizes and image_num_tiles of one processor call, and a processor whose image_aspect_ratio is the "
            "model's ({mode!r}).",
            {"num_tiles": num_tiles, "stated": image_num_tiles, "mode": config.image_aspect_ratio},
        )
    ]
    if anyres and image_sizes is not None:
        conditions.append(fits_grids(config, image_sizes, image_num_tiles))
    if mask is not None:
        chunks = num_tiles if config.anyres_patch_sampling or not anyres else image_num_tiles.shape[0]
        conditions.append(fits_prompt(chunks * config.resampler_config.num_latents * repeats, mask))
    check(*conditions)
    return image_num_tiles


def fits_grids(config: XGenMMConfig, image_sizes: torch.Tensor, image_num_tiles: torch.Tensor) -> Condition:
    """Returns the condition that every image is one tile, or has the tiles of its grid."""
    expected = count_tiles(image_sizes.to(image_num_tiles.device), config.anyres_grids, config.tile_size)
    return Condition(
        ((image_num_tiles == 1) | (image_num_tiles == expected)).all(),
        "image_num_tiles is {stated}, but on the model's anyres_grids these images take {expected} tiles; use the "
        "processor that belongs to the model.",
        {"stated": image_num_tiles, "expected": expected},
    )


def fits_prompt(num_tokens: int, mask: torch.Tensor) -> Condition:
    """Returns the condition that the prompts hold as many image tokens as the images give."""
    found = mask.sum()
    return Condition(
        found == num_tokens,
        "Image features and image tokens do not match: the images give {given} tokens, the prompt holds {found}. "
        "Prepare both in one processor call, and do not truncate a prompt inside an image.",
        {"given": num_tokens, "found": found},
    )


def arrange_chunks(
    config: XGenMMConfig, features: torch.Tensor, image_sizes: torch.Tensor | None, image_num_tiles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Arranges features (num_tiles, num_patches, width) in chunks (num_chunks, patches of a chunk, width).

    Also returns a mask, False on hidden patches, (num_chunks, patches of a chunk), or None if no patch is hidden.
    `image_sizes` may be None if every image is one tile; `image_num_tiles` comes from `resolve_num_tiles`.
    """
    if config.image_aspect_ratio != "anyres" or image_sizes is None:
        missing = "image_sizes is missing; pass the processor's image_sizes with images of more than one tile."
        check(Condition(image_num_tiles.shape[0] == features.shape[0], missing))
        return features, None
    # the parts of a model may be on different devices
    image_sizes, image_num_tiles = image_sizes.to(features.device), image_num_tiles.to(features.device)
    grids = select_grids(image_sizes, config.anyres_grids) // config.tile_size
    layout = tile_layout(image_sizes, image_num_tiles, features.shape[0], grids, config.patches_per_side)
    chunks, visible = features.flatten(0, 1)[layout.source], layout.visible
    if config.anyres_patch_sampling:
        return chunks, visible if config.resampler_config.letterbox_mask else None
    if not config.resampler_config.letterbox_mask:
        visible = torch.ones_like(visible)
    most_tiles = 1 + max(width * height for width, height in config.anyres_grids) // config.tile_size**2
    return join_tiles(chunks, visible, image_num_tiles, most_tiles)


def join_tiles(
    chunks: torch.Tensor, visible: torch.Tensor, image_num_tiles: torch.Tensor, most_tiles: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins the tiles of each image into one chunk, (num_images, most_tiles * num_patches, width), and its mask.

    Chunks are padded to `most_tiles` tiles with hidden features. The caller gives this number, so that no count has
    to be copied from the device.
    """
    slot = torch.arange(most_tiles, device=chunks.device)
    filled = slot < image_num_tiles.unsqueeze(1)
    first = (image_num_tiles.cumsum(0) - image_num_tiles).unsqueeze(1)
    tile = torch.where(filled, first + slot, 0)  # (num_images, most_tiles)
    return chunks[tile].flatten(1, 2), (visible[tile] & filled.unsqueeze(-1)).flatten(1, 2)


def split_tokens(config: XGenMMConfig, tokens: torch.Tensor, image_num_tiles: torch.Tensor) -> list[torch.Tensor]:
    """Splits (total image tokens, text width) into one (tokens, text width) tensor per image."""
    return list(tokens.split(image_lengths(config, image_num_tiles.tolist())))


def image_lengths(config: XGenMMConfig, image_num_tiles: list[int]) -> list[int]:
    """Returns how many tokens each image takes in the prompt."""
    num_latents = config.resampler_config.num_latents
    return [count_image_tokens(tiles, num_latents, config.anyres_patch_sampling) for tiles in image_num_tiles]


def image_of_chunk(image_num_tiles: torch.Tensor, num_chunks: int) -> torch.Tensor | None:
    """Returns the index of the image of each chunk, (num_chunks,); None if each image is one chunk."""
    if num_chunks == image_num_tiles.shape[0]:
        return None
    chunk = torch.arange(num_chunks, device=image_num_tiles.device)
    return torch.searchsorted(image_num_tiles.cumsum(0), chunk, right=True)


def check(*conditions: Condition) -> None:
    """Raises a ValueError for the first condition that is false; compiled code checks nothing."""
    if torch.compiler.is_compiling():
        return
    known = all(condition.holds for condition in conditions if isinstance(condition.holds, bool))
    asked = [condition.holds for condition in conditions if not isinstance(condition.holds, bool)]
    if known and (not asked or torch.stack([holds.to(asked[0].device) for holds in asked]).all()):
        return
    raise next(condition for condition in conditions if not condition.holds).error()
