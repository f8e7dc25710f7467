"""What the processor returns, and which tokens count as training targets: image tokens never do.

Shapes: labels and ids are (B, L); a label of -100 counts for nothing.
"""

from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging


IGNORE_INDEX = -100
logger = logging.get_logger(__name__)


class ModelInputs(BatchFeature):
    """What the processor returns; `labels` that a collator sets on it never count at image tokens.

    Collators, including TRL's, copy `input_ids` and set the copy as `labels` of what the processor returned. Trainers
    count and sum over these labels without the model, so image tokens become -100 already here.

    `inputs["image_num_tiles"]` works, but is not among the items: the model counts tiles from `image_sizes`, and
    trainers pass every item to functions that know only the names of the library's own models.
    """

    def __init__(
        self,
        data: Any = None,
        tensor_type: Any = None,
        image_token_id: int | None = None,  # None leaves labels as they are
        image_num_tiles: Any = None,  # of each image, (num_images,); None without images
    ):
        self.image_token_id = image_token_id
        counts = {} if image_num_tiles is None else {"image_num_tiles": image_num_tiles}
        self.counts = BatchFeature(counts, tensor_type=tensor_type)
        super().__init__(data, tensor_type=tensor_type)

    def __getitem__(self, item: str) -> Any:
        """Returns an input, or the number of tiles of each image."""
        return self.counts[item] if item in self.counts and item not in self.data else super().__getitem__(item)

    def __contains__(self, item: object) -> bool:
        """Tells whether an input, or the number of tiles, is there."""
        return item in self.data or item in self.counts

    def __setitem__(self, name: str, value: Any) -> None:
        """Sets an input; `labels` lose their image tokens."""
        if name == "labels" and self.image_token_id is not None:
            value = without_image_targets(value, self.image_token_id)
        super().__setitem__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps the image token's id when a loader's process sends the inputs."""
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what `__getstate__` returned."""
        self.__dict__.update(state)


def without_image_targets(labels: Any, image_token_id: int) -> Any:
    """Returns labels (a tensor, an array or lists) with -100 at image tokens."""
    if isinstance(labels, torch.Tensor):
        return labels.masked_fill(labels == image_token_id, IGNORE_INDEX)
    if isinstance(labels, np.ndarray):
        return np.where(labels == image_token_id, IGNORE_INDEX, labels)
    if isinstance(labels, (list, tuple)):
        return [without_image_targets(label, image_token_id) for label in labels]
    return IGNORE_INDEX if labels == image_token_id else labels


def count_without_images(
    num_items_in_batch: int | torch.Tensor, given: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Corrects a trainer's number of targets for the image tokens among them.

    A trainer counts the targets of a whole step before the model sees them. The share of image tokens between labels
    as given and targets, (B, L), is this batch's: exact for one batch per step, close for several.
    """
    before, after = (given != IGNORE_INDEX).sum(), (targets != IGNORE_INDEX).sum()
    if not torch.compiler.is_compiling() and after < before:
        logger.warning_once(
            "Labels hold image tokens, which never count; the loss is scaled by this batch's share of them. "
            'For exact scaling set `inputs["labels"]` on what the processor returned, which makes them -100, or use '
            "xgenmm_hf.SupervisedCollator."
        )
    corrected = torch.as_tensor(num_items_in_batch, device=after.device) * after / before.clamp(min=1)
    return torch.where(after > 0, corrected, torch.ones_like(corrected))
