"""TRL's SFTTrainer on our rows: pre-training, fine-tuning and safety tuning, with different collators."""

from typing import Any

from torch.utils.data import Sampler
from trl import SFTTrainer

from xgenmm_hf.data.lengths import COLUMNS, TEXT_COLUMNS
from xgenmm_hf.data.rows import KINDS
from xgenmm_hf.training.guards import GuardedTrainerMixin
from xgenmm_hf.training.sampler import EpochOfSampler, ModalityLengthSampler


ROW_COLUMNS = ("id", "source", "images", *(name for names in KINDS.values() for name in names), "completion")


class XGenMMSFTTrainer(GuardedTrainerMixin, SFTTrainer):
    """SFTTrainer whose rows reach the collator whole, in batches of one modality and of about one length.

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
