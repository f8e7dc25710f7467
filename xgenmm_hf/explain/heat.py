"""Attention over patches -> heat over the pixels of an image.

Shapes: an image of height x width pixels in num_tiles tiles of side * side patches. Tile 0 shows the whole image, the
others are its grid's, row by row.
"""

import numpy as np
import torch

from xgenmm_hf.explain.addresses import ImageAddresses


def heat_of_patches(addresses: ImageAddresses, attention: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Adds up what an image's tokens looked at, and puts it back from the resampler's order to tiles.

    Args:
        addresses: Where the image's tokens come from.
        attention: How much each token's latent looked at each patch of its chunk, (num_chunks, num_latents, patches
            of a chunk).
        weights: How much each token counts, (num_chunks, num_latents).

    Returns:
        Heat, (num_tiles, side, side), summing to one unless all of it is zero.

    Raises:
        ValueError: If attention and image do not fit each other.
    """
    chunks, patches = addresses.chunk_patches.shape
    if attention.shape != (chunks, weights.shape[1], patches):
        raise ValueError(
            f"attention is {tuple(attention.shape)}, but this image is sampled in {chunks} chunks of {patches} "
            "patches; pass the attention of one image's own forward pass."
        )
    seen = (weights.double().cpu().unsqueeze(-1) * attention.double().cpu()).sum(1) * addresses.chunk_visible
    heat = torch.zeros(addresses.patch_letterbox.numel(), dtype=torch.float64)
    heat.index_add_(0, addresses.chunk_patches.flatten(), seen.flatten())
    return (heat / (heat.sum() or 1)).view(addresses.patch_letterbox.shape)


def heat_of_pixels(heat: np.ndarray, addresses: ImageAddresses) -> tuple[np.ndarray, float]:
    """Spreads the heat of patches, (num_tiles, side, side), over the pixels that they show.

    Returns:
        Heat of pixels, (height, width), summing to one unless all of it is zero; and the share of the patches' heat
        that lies on padding and so outside of the image, in [0, 1].

    Raises:
        ValueError: If the heat is another image's.
    """
    if heat.shape != addresses.patch_letterbox.shape:
        raise ValueError(
            f"heat is {heat.shape}, but the image's tiles, rows and columns of patches are "
            f"{tuple(addresses.patch_letterbox.shape)}; pass heat and addresses of the same image."
        )
    height, width = addresses.image_sizes[0].tolist()
    pixels = np.zeros((height, width))
    for values, boxes in zip(heat, addresses.patch_box.numpy(), strict=True):
        rows, columns = boxes[:, 0, 1::2], boxes[0, :, 0::2]
        pixels += coverage(rows, height).T @ values @ coverage(columns, width)
    inside = pixels.sum()
    outside = max(0.0, 1.0 - float(inside / heat.sum())) if heat.sum() > 0 else 0.0
    return (pixels / inside if inside > 0 else pixels), outside


def coverage(edges: np.ndarray, length: int) -> np.ndarray:
    """Computes which part of each cell, (cells, 2), lies on each pixel of an axis, (cells, length)."""
    pixel = np.arange(length)
    start, end = edges[:, :1], edges[:, 1:]
    return np.clip(np.minimum(end, pixel + 1) - np.maximum(start, pixel), 0, None) / (end - start)
