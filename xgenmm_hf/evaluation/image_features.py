"""Features by which images are compared: the model's own vision tower, pooled over the patches of one tile.

Shapes: an image has one vector, (width,), of length 1; several images of a sample are averaged.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.evaluation.image_keys import image_key
from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.share import Share


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded

SAVE_EVERY = 1000


class ImageFeatures:
    """Computes features of images, each once, and keeps them in files.

    An image is encoded alone, so that its features never depend on its neighbours in a batch. Several processes
    share the work: each encodes its part and reads the files of the others.

    Args:
        loaded: The model and its processor.
        folder: Where the files are.
        checkpoint: What identifies the checkpoint; another one has other files.
        share: This process's part of the work.
    """

    def __init__(self, loaded: "Loaded", folder: str | os.PathLike[str], checkpoint: str, share: Share | None = None):
        self.loaded, self.folder, self.share = loaded, Path(folder), share or Share()
        self._stem = f"features-{checkpoint[:16]}"
        self._known: dict[str, np.ndarray] = {}
        self._own: dict[str, np.ndarray] = {}
        self._read()

    def of_samples(self, samples: Sequence[Sample]) -> np.ndarray:
        """Returns the features of samples.

        Args:
            samples: Samples; those without a readable image get zeros, and so are near to nothing.

        Returns:
            (samples, width), each row of length 1 or 0.
        """
        self._encode_missing([image for sample in samples for image in sample.images])
        rows = []
        for sample in samples:
            found = [self._known[image_key(image)] for image in sample.images]
            rows.append(unit(np.mean(found, axis=0)) if found else np.zeros(self._width, np.float32))
        return np.stack(rows)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Encodes the images of samples, together with the other processes; each must call it with the same.

        Args:
            samples: Samples whose features will be asked for.
        """
        refs = [image for sample in samples for image in sample.images]
        missing = self._missing(refs)
        # No process may write before every process knows what is missing: it is divided by that.
        self.share.wait()
        self._encode(missing[self.share.rank :: self.share.world])
        self.share.wait()
        self._read()

    @property
    def _width(self) -> int:
        return int(self.loaded.model.config.vision_config.hidden_size)

    def _missing(self, refs: Sequence[Any]) -> list[Any]:
        """Returns one reference of each image without features."""
        return list({key: ref for ref in refs if (key := image_key(ref)) not in self._known}.values())

    def _encode_missing(self, refs: Sequence[Any]) -> None:
        missing = self._missing(refs)
        if missing:
            self._encode(missing)

    def _encode(self, refs: Sequence[Any]) -> None:
        """Encodes images one by one and saves them now and then."""
        for number, ref in enumerate(refs, 1):
            self._own[image_key(ref)] = self._known[image_key(ref)] = self._features(ref)
            if number % SAVE_EVERY == 0:
                self._save()
        if refs:
            self._save()

    def _features(self, ref: Any) -> np.ndarray:
        """Computes an image's features, (width,); zeros for one that cannot be read."""
        import torch

        try:
            image = open_image(ref)
        except UnreadableImage:
            return np.zeros(self._width, np.float32)
        model = self.loaded.model
        tiles = self.loaded.processor.image_processor(image, image_aspect_ratio="none")["pixel_values"]
        with torch.inference_mode():
            output = model.get_vision_features(tiles.to(model.device, model.dtype))
        return unit(output.last_hidden_state.float().mean((0, 1)).cpu().numpy())

    def _read(self) -> None:
        """Reads the files of all processes."""
        for file in sorted(self.folder.glob(f"{self._stem}-*.npz")):
            with np.load(file) as saved:
                self._known.update(zip(saved["keys"].tolist(), saved["features"], strict=True))
            if file.name == f"{self._stem}-{self.share.rank}.npz":
                with np.load(file) as saved:
                    self._own.update(zip(saved["keys"].tolist(), saved["features"], strict=True))

    def _save(self) -> None:
        """Writes what this process encoded, beside its file and then into its place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".features-", dir=self.folder) as name:
            part = Path(name) / "features.npz"
            np.savez(part, keys=np.array(list(self._own)), features=np.stack(list(self._own.values())))
            os.replace(part, self.folder / f"{self._stem}-{self.share.rank}.npz")


def unit(vector: np.ndarray) -> np.ndarray:
    """Returns a vector scaled to length 1, zeros as they are."""
    length = np.linalg.norm(vector)
    return (vector / length if length > 0 else vector).astype(np.float32)
