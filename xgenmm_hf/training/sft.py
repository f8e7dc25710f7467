"""TRL's SFTTrainer on our rows, in batches of one modality and similar length.

Rows are shuffled, sorted by length within megabatches of many batches, cut into batches of one modality, and the
batches shuffled. The order depends on the seed and the epoch alone, so every rank makes the same one and a resumed run
finds its place in it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import SFTTrainer

from xgenmm_hf.data.lengths import COLUMNS, TEXT_COLUMNS
from xgenmm_hf.data.rows import KINDS
from xgenmm_hf.training.guards import GuardedTrainerMixin


ROW_COLUMNS = ("id", "source", "images", *(name for names in KINDS.values() for name in names), "completion")
# Batches that are sorted together: enough that neighbours are about equally long, few enough that batches stay random.
BATCHES_IN_A_MEGABATCH = 50


class XGenMMSFTTrainer(GuardedTrainerMixin, SFTTrainer):
    """SFTTrainer that passes whole rows to the collator, in batches of one modality and similar length.

    Args:
        *args: SFTTrainer's arguments.
        group_by_modality_length: Whether the training rows are grouped; they then need the columns that
            `lengths.add_lengths` makes. A stream keeps its own order.
        **kwargs: SFTTrainer's and `GuardedTrainerMixin`'s arguments.

    Example:
        ```python
        >>> from trl import SFTConfig
        >>> import xgenmm_hf
        >>> processor = xgenmm_hf.XGenMMProcessor.from_pretrained(xgenmm_hf.TINY_MODEL)
        >>> model = xgenmm_hf.XGenMMForConditionalGeneration.from_pretrained(xgenmm_hf.TINY_MODEL, dtype="float32")
        >>> chats = xgenmm_hf.load_rows("llava", "examples/data/chats.jsonl", roots={"": "examples/data/images"})
        >>> trainer = xgenmm_hf.XGenMMSFTTrainer(
        ...     model=model,
        ...     args=SFTConfig("runs/sft", max_steps=1, use_cpu=True, bf16=False, report_to=[]),
        ...     train_dataset=xgenmm_hf.add_lengths(chats.dataset, processor),
        ...     data_collator=xgenmm_hf.SupervisedCollator(processor, max_length=2048),
        ...     processing_class=processor,
        ... )
        >>> trainer.train().global_step
        1
        ```
    """

    def __init__(self, *args: Any, group_by_modality_length: bool = True, **kwargs: Any):
        self.group_by_modality_length = group_by_modality_length
        super().__init__(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*ROW_COLUMNS, *COLUMNS, *TEXT_COLUMNS]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        rows, args = self.train_dataset if train_dataset is None else train_dataset, self.args
        measured = hasattr(rows, "__len__") and {*COLUMNS} <= {*(rows.column_names or ())}
        if not (self.group_by_modality_length and measured):
            return super()._get_train_sampler(train_dataset)
        batch_size = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        sampler = ModalityLengthSampler(rows["num_tokens"][:], rows["modality"][:], batch_size, seed)
        self.add_callback(EpochOfSampler(sampler))
        return sampler


class ModalityLengthSampler(Sampler[int]):
    """Yields every row once per epoch, in batches of one modality and similar length.

    The longest batch comes first; rows that do not fill a batch of their modality form mixed batches at the end.
    `batch_size` counts the rows of an optimizer step over all ranks, so that a whole step stays in one modality.
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

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which decides the order of the next iteration; the trainer calls this."""
        self.epoch = int(epoch)

    def __iter__(self) -> Iterator[int]:
        # Mixed so that small seeds and epochs give different generators, which seed + epoch would not.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        full: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for group in self._groups.unique():
            rows = torch.nonzero(self._groups == group)[:, 0]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            num_full = len(rows) // self.batch_size * self.batch_size
            full += self._sorted_batches(rows[:num_full])
            rest.append(rows[num_full:])
        places = torch.randperm(len(full), generator=generator).tolist()
        # The longest batch comes first, so that a run short of memory fails at once.
        longest = max(places, key=lambda index: int(self.lengths[full[index]].max()), default=None)
        ordered = [full[index] for index in sorted(places, key=lambda index: index != longest)]
        for batch in [*ordered, *(self._sorted_batches(torch.cat(rest)) if rest else [])]:
            yield from batch.tolist()

    def _sorted_batches(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Sorts shuffled rows by length within megabatches and cuts them into batches."""
        batches: list[torch.Tensor] = []
        for megabatch in rows.split(self.batch_size * self.num_sorted_batches) if len(rows) else ():
            order = torch.argsort(self.lengths[megabatch], descending=True, stable=True)
            batches += megabatch[order].split(self.batch_size)
        return batches


class EpochOfSampler(TrainerCallback):
    """Sets the sampler's epoch: a Trainer that resumes on several ranks does not reach the wrapped sampler."""

    def __init__(self, sampler: ModalityLengthSampler):
        self.sampler = sampler

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the epoch that the state has reached."""
        self.sampler.set_epoch(int(state.epoch or 0))
