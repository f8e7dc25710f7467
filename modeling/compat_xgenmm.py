"""The one place for differences between the supported Transformers lines (4.57.x and 5.x).

The rest of the package is written once and uses this module.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
import transformers
from packaging import version
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg


# names that other modules import from here on both lines
__all__ = ["AutoModelForVision2Seq", "initialization", "merge_with_config_defaults"]

IS_V5 = version.parse(transformers.__version__).major >= 5

# 4.57 passes single texts to the tokenizer's batch method; 5.x has one method for both.
TOKENIZES_IN_BATCHES = not IS_V5
# 5.24 renamed `past_key_values` to `cache` in forward passes, in outputs and between generation steps.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
# With the new name, a forward pass that gets the old one warns, as the library's models do.
warns_of_old_cache_name = (
    deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    if CACHE_NAME == "cache"
    else lambda forward: forward
)
LM_HEAD_TP_PLAN = {"lm_head": "colwise_gather_output" if IS_V5 else "colwise_rep"}

if IS_V5:
    from transformers import AutoModelForImageTextToText as AutoModelForVision2Seq
    from transformers import AutoModelForMultimodalLM, initialization
    from transformers.utils.generic import merge_with_config_defaults

    IMAGE_TEXT_AUTO_CLASSES = (AutoModelForVision2Seq, AutoModelForMultimodalLM)
    ImageTextProcessorMixin = ProcessorMixin
else:
    from torch.nn import init as initialization
    from transformers import AutoModelForImageTextToText, AutoModelForVision2Seq
    from transformers.utils.chat_template_utils import render_jinja_template

    IMAGE_TEXT_AUTO_CLASSES = (AutoModelForVision2Seq, AutoModelForImageTextToText)

    class ImageTextProcessorMixin(ProcessorMixin):  # type: ignore[no-redef]
        """Names the parts of a processor; 5.x reads them from the signature of `__init__`."""

        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

        def apply_chat_template(
            self,
            conversation: Any,
            chat_template: str | None = None,
            tokenize: bool = False,
            return_dict: bool = False,
            return_assistant_tokens_mask: bool = False,
            processor_kwargs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> Any:
            """Renders and prepares chats; adds 5.x's assistant mask and separates options from template variables."""
            if not tokenize:
                return super().apply_chat_template(conversation, chat_template, **kwargs)
            template = self.chat_template if chat_template is None else chat_template
            template = template["default"] if isinstance(template, dict) else template
            # A variable of the template is a name that occurs in it; every other name is an option of the call.
            known = {*inspect.signature(render_jinja_template).parameters, *re.findall(r"\w+", template)}
            variables = {name: kwargs.pop(name) for name in known & kwargs.keys()}
            is_batched = not isinstance(conversation[0], Mapping)
            chats = conversation if is_batched else [conversation]
            prompts, answers = render_jinja_template(
                conversations=chats,
                chat_template=template,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                **{**self.tokenizer.special_tokens_map, **variables},
            )
            options = {**kwargs, **(processor_kwargs or {})}
            images = [
                [item["image"] for turn in chat for item in turn["content"] if "image" in item] for chat in chats
            ]
            batch = self(
                images=images if any(images) else None,
                text=prompts if is_batched else prompts[0],
                return_offsets_mapping=return_assistant_tokens_mask or options.pop("return_offsets_mapping", False),
                **options,
            )
            if not return_dict:
                return batch["input_ids"]
            if return_assistant_tokens_mask:
                offsets = batch.pop("offset_mapping")
                masks = [mask_of_spans(*row) for row in zip(offsets, answers, strict=True)]
                tensor_type = options.get("return_tensors")
                batch["assistant_masks"] = torch.tensor(masks) if tensor_type == "pt" else masks
            return batch

    def mask_of_spans(offsets: Any, spans: list[tuple[int, int]]) -> list[int]:
        """Returns 1 for tokens that begin inside one of the spans of the prompt; image tokens never do."""
        starts, ends = torch.as_tensor(offsets).T
        inside = torch.zeros_like(starts, dtype=torch.bool)
        for first, last in spans:
            inside |= (starts >= first) & (starts < last) & (ends > starts)
        return inside.long().tolist()

    def merge_with_config_defaults(forward: Callable) -> Callable:
        """Makes the config's `output_attentions` and `output_hidden_states` the defaults of a call."""

        @wraps(forward)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            for name in ("output_attentions", "output_hidden_states"):
                if kwargs.get(name) is None and getattr(self.config, name):
                    kwargs[name] = True
            return forward(self, *args, **kwargs)

        return wrapper


class AnyAttentionModel(PreTrainedModel):
    """A model that supports gradient checkpointing and every attention implementation of the library."""

    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class VisionTowerHolder(AnyAttentionModel):
    """Holds a vision model under the name `vision_model` if the library's class lacks this level.

    SigLIP and CLIP tensors are called `vision_model.*` on 4.57 and have no prefix on later 5.x; with this holder the
    module tree, and so the checkpoint, is the same on both.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, vision_model: PreTrainedModel):
        super().__init__(vision_model.config)
        self.vision_model = vision_model
        self._no_split_modules = vision_model._no_split_modules
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the vision model's patch embedding."""
        return self.vision_model.get_input_embeddings()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Calls the vision model; `pixel_values` is (num_tiles, channels, height, width)."""
        return self.vision_model(pixel_values, **kwargs)


def build_vision_tower(config: PretrainedConfig) -> nn.Module:
    """Builds the vision tower so that its tensors are named `vision_model.*` on every library line."""
    tower = AutoModel.from_config(config)
    if "vision_model" in dict(tower.named_children()):
        return tower
    return VisionTowerHolder(tower)


def as_own_class(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a view of a model under its original class.

    FSDP2 replaces the model's class with a generated one. The library would write the module of that class, a file
    of torch, into the folder and its `auto_map`.
    """
    own = next(cls for cls in type(model).__mro__ if not is_fsdp2_class(cls))
    if own is type(model):
        return model
    view: Any = object.__new__(own)
    object.__setattr__(view, "__dict__", model.__dict__)
    return view


def is_fsdp2_class(cls: type) -> bool:
    """Tells whether a class is one that FSDP2 generated (or its base)."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return issubclass(cls, FSDPModule)


def names_of_mismatched(loading_info: dict[str, Any]) -> list[str]:
    """Returns the names of the tensors that `from_pretrained(output_loading_info=True)` found in another shape.

    5.x reports (name, shape, shape) where 4.57 reports the name.
    """
    return [entry if isinstance(entry, str) else entry[0] for entry in loading_info["mismatched_keys"]]


def is_prefill(kwargs: dict[str, Any], start: int = 0) -> bool:
    """Tells from the keyword arguments of `prepare_inputs_for_generation` whether the prompt is being read.

    5.x says so with `is_first_iteration`; 4.57 with `cache_position` starting where the cache ended, at `start`.
    """
    if IS_V5:
        return bool(kwargs.get("is_first_iteration"))
    cache_position = kwargs.get("cache_position")
    return cache_position is None or int(cache_position[0]) == start


def read_rope_of_either_line(fields: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Rewrites the rotary embedding of a text config's dict to the form that the running line reads.

    5.x reads both forms; 4.57 ignores `rope_parameters` and would fall back to a theta of 10000.
    """
    legacy = legacy_rope(fields.get("rope_parameters"), model_type)
    if IS_V5:
        return {name: value for name, value in fields.items() if name not in legacy}
    return {name: value for name, value in fields.items() if name != "rope_parameters" or not legacy} | legacy


def rope_as_read(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a text config's dict as a loaded config states it: 4.57 keeps both forms of the rotary embedding."""
    return fields if IS_V5 else write_rope_of_both_lines(fields)


def write_rope_of_both_lines(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds to a text config's dict the form of the rotary embedding that the other line reads."""
    if fields.get("rope_parameters") is None and fields.get("rope_theta") is not None:
        scaling = dict(fields.get("rope_scaling") or {})
        rope_type = scaling.pop("type", None) or scaling.get("rope_type", "default")
        parameters = {**scaling, "rope_type": rope_type, "rope_theta": fields["rope_theta"]}
        if "partial_rotary_factor" in fields:
            parameters["partial_rotary_factor"] = fields["partial_rotary_factor"]
        return {**fields, "rope_parameters": parameters}
    legacy = legacy_rope(fields.get("rope_parameters"), fields.get("model_type"))
    if legacy.get("partial_rotary_factor") == 1.0:  # 4.57's default, which 5.x would keep as an unknown field
        del legacy["partial_rotary_factor"]
    return {**fields, **legacy}


def legacy_rope(parameters: dict[str, Any] | None, model_type: str | None) -> dict[str, Any]:
    """Translates `rope_parameters` into the fields of 4.57; returns none if each layer type has its own parameters."""
    if parameters is None or "rope_theta" not in parameters:
        return {}
    kept = ("rope_theta", "partial_rotary_factor")
    fields: dict[str, Any] = {name: parameters[name] for name in kept if name in parameters}
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        return {**fields, "rope_scaling": None}
    if model_type == "phi3":
        factors = {name: parameters[name] for name in ("short_factor", "long_factor")}
        return {**fields, "rope_scaling": {"type": rope_type, **factors}}
    return {**fields, "rope_scaling": {name: value for name, value in parameters.items() if name not in fields}}


def checkpoints_gradients(model: nn.Module) -> bool:
    """Tells whether gradient checkpointing is on; the library's property for this has another name on each line."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
