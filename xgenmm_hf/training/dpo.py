"""TRL's `DPOTrainer` that runs the vision tower once per image of a step, where stock TRL runs it four times.

A batch holds each image once, and `image_repeats` shows it in both halves. Policy and reference share the output of
frozen parts: the image tokens if tower and resampler are frozen, the tower's features if only the tower is. A tower
that trains runs in each model. The loss is TRL's code, unchanged.
"""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl.trainer.dpo_trainer import DPOTrainer

from xgenmm_hf.training.collators import SIDES, PreferenceCollator
from xgenmm_hf.training.guards import GuardedTrainerMixin
from xgenmm_hf.training.sharding import add_blank_image


PARTS = ("vision_tower", "resampler")
IMAGES = ("pixel_values", "image_sizes", "image_num_tiles")


class XGenMMDPOTrainer(GuardedTrainerMixin, DPOTrainer):
    """Trains on preference pairs with images, with the loss of TRL's `DPOTrainer`, in less time and memory.

    Args:
        model: The policy, a `PeftModel` of it, or a path.
        ref_model: The reference model; default: the initial policy (with PEFT: the policy without its adapter).
        args: A `trl.DPOConfig`.
        data_collator: Default for rows with images: a `PreferenceCollator`.
        train_dataset: Preference rows; those with an `images` column are read when a batch is made.
        eval_dataset: Preference rows, or a dict of several sets of them.
        **kwargs: The other arguments of `trl.DPOTrainer` (`processing_class`, `peft_config`, `callbacks`, ...).

    Example:
        ```python
        >>> from trl import DPOConfig
        >>> from xgenmm_hf import TINY_MODEL, XGenMMDPOTrainer, XGenMMProcessor, load_rows
        >>> rows = load_rows("vlfeedback", "examples/data/answers.jsonl", roots={"": "examples/data/images"}).dataset
        >>> args = DPOConfig(
        ...     "runs/dpo", max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[]
        ... )
        >>> trainer = XGenMMDPOTrainer(
        ...     TINY_MODEL, args=args, train_dataset=rows, processing_class=XGenMMProcessor.from_pretrained(TINY_MODEL)
        ... )
        >>> trainer.train().global_step
        1
        ```
    """

    ref_model: Any

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        super().__init__(model, ref_model, args, data_collator, train_dataset, eval_dataset, **kwargs)
        if data_collator is None and self._is_vision_dataset:
            self.data_collator = PreferenceCollator(
                self.processing_class, self.args.max_length, self.args.pad_to_multiple_of
            )
        models = [self.accelerator.unwrap_model(one) for one in (self.model, self.ref_model or self.model)]
        # Whether a part has the same weights in policy and reference.
        self._same = {name: same_weights(*(image_module(one, name) for one in models)) for name in PARTS}

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in ("id", "source") if name not in self._signature_columns]

    def _add_blank_image(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return add_blank_image(inputs, self._plain_config(), len(SIDES)) if self._is_vision_dataset else inputs

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(model, self._share_images(model, inputs), return_outputs)

    def _share_images(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replaces a batch's images by the encodings that policy and reference share."""
        root = self.accelerator.unwrap_model(model)
        shares = {name: self._same[name] and is_fixed(image_module(root, name)) for name in PARTS}
        if inputs.get("pixel_values") is None or not shares["vision_tower"]:
            return inputs
        images = {name: inputs[name] for name in IMAGES if inputs.get(name) is not None}
        with torch.no_grad(), self.accelerator.autocast():
            # the first release's resampler also reads embeddings of the prompt's text
            if shares["resampler"] and not self._plain_config().resampler_config.text_conditioned:
                encoded = as_forward_method(root, "get_image_features")(**images)
                shared = BaseModelOutputWithPooling(pooler_output=encoded.pooler_output)
                used: tuple[str, ...] = IMAGES
            else:
                encoded = as_forward_method(root, "get_vision_features")(inputs["pixel_values"])
                shared = BaseModelOutputWithPooling(last_hidden_state=encoded.last_hidden_state)
                used = IMAGES[:1]
        rest = {name: value for name, value in inputs.items() if name not in used}
        return {**rest, "mm_encoder_outputs": {"image": shared}}


def image_module(model: Any, name: str) -> nn.Module:
    """Returns the vision tower or the resampler of a model."""
    base = model.get_base_model() if is_peft_model(model) else model
    return getattr(base.model, name)


def is_fixed(module: nn.Module) -> bool:
    """Tells whether a module's output is the same in policy and reference."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    if any(weight.requires_grad for weight in module.parameters()):
        return False
    return not any(isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for part in module.modules())


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Tells whether two modules hold equal tensors; either may be sharded."""
    if first is second:
        return True
    left, right = ({name: whole(value) for name, value in part.state_dict().items()} for part in (first, second))
    return left.keys() == right.keys() and all(
        value.dtype == right[name].dtype and torch.equal(value, right[name].to(value.device))
        for name, value in left.items()
    )


def whole(value: torch.Tensor) -> torch.Tensor:
    """Returns the whole tensor of one that FSDP2 may have sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def as_forward_method(model: nn.Module, name: str) -> Any:
    """Returns a method of a model, registered with FSDP2 if the model is sharded.

    FSDP2 gathers a model's weights only around `forward` and registered methods.
    """
    # registering sets the wrapped method on the instance, and must happen once
    if isinstance(model, FSDPModule) and name not in vars(model):
        register_fsdp_forward_method(model, name)
    return getattr(model, name)
