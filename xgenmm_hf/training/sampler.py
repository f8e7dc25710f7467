"""The order of training rows: batches of one modality and of about one length.

Rows of a batch are padded to its longest; a text beside an image of five tiles would be almost all padding. Rows are
therefore shuffled, sorted by length within megabatches of many batches, cut into batches of one modality, and the
batches shuffled. The order depends on the seed and the epoch alone, so every rank makes the same one and a resumed run
finds its place in it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


# Batches that are sorted together: enough that neighbours are about equally long, few enough that batches stay random.
BATCHES_IN_A_MEGABATCH = 50


class ModalityLengthSampler(Sampler[int]):
    """Gives every row once an epoch, in batches of one modality and of about one length.

    The batch with the longest row comes first. What is left of each modality after its last full batch is put
    together at the end of the epoch, in batches that may hold several modalities. `batch_size` counts the rows of an
    optimizer step over all ranks, so that a whole step stays in one modality.
    Source: the fine-tuning recipe of BLIP-3, which groups as LLaVA does (by modality, in megabatches).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        modalities: Sequence[str],
        batch_size: int,
        seed: int = 0,
        num_sorted_batches: int = BATCHES_IN_A_MEGABATCH,
    ):
        self.lengths = torch.tensor(list(lengths), dtype=torch.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.num_sorted_batches = num_sorted_batches
        self.epoch = 0
        # In the order of first appearance: the order of a set of strings changes from process to process.
        names = {name: number for number, name in enumerate(dict.fromkeys(modalities))}
        self._groups = torch.tensor([names[name] for name in modalities], dtype=torch.int64)
        self._num_groups = len(names)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration gives; the trainer calls this."""
        self.epoch = int(epoch)

    def __iter__(self) -> Iterator[int]:
        """Yields the rows of the epoch."""
        generator = torch.Generator().manual_seed(self._mixed_seed())
        full: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for group in range(self._num_groups):
            rows = torch.nonzero(self._groups == group)[:, 0]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            num_full = len(rows) // self.batch_size * self.batch_size
            full += self._sorted_batches(rows[:num_full])
            rest.append(rows[num_full:])
        places = torch.randperm(len(full), generator=generator).tolist()
        # The longest batch first: where memory does not suffice, the run says so at once.
        longest = max(places, key=lambda index: int(self.lengths[full[index]].max()), default=None)
        for index in sorted(places, key=lambda index: index != longest):
            yield from full[index].tolist()
        for batch in self._sorted_batches(torch.cat(rest)) if rest else []:
            yield from batch.tolist()

    def _sorted_batches(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Sorts shuffled rows by length within megabatches and cuts them into batches."""
        batches: list[torch.Tensor] = []
        for megabatch in rows.split(self.batch_size * self.num_sorted_batches) if len(rows) else ():
            order = torch.argsort(self.lengths[megabatch], descending=True, stable=True)
            batches += megabatch[order].split(self.batch_size)
        return batches

    def _mixed_seed(self) -> int:
        """Mixes seed and epoch so that no two small pairs meet, as seed + epoch would."""
        return (self.seed * 1_000_003 + self.epoch) % 2**63


class EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch when a run starts or resumes.

    In the middle of an epoch the trainer resumes with a loader that skips batches, and with several ranks it then
    wraps the sampler one level deeper than its own `set_epoch` reaches.
    """

    def __init__(self, sampler: ModalityLengthSampler):
        self.sampler = sampler

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the epoch that the state has reached."""
        self.sampler.set_epoch(int(state.epoch or 0))
