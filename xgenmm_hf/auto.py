"""Registers the xGen-MM classes with Transformers' Auto classes; importing this module is enough.

`AutoModelForImageTextToText.from_pretrained(...)`, `AutoProcessor`, `pipeline("image-text-to-text")` and the other
Auto classes then load xGen-MM checkpoints without `trust_remote_code`, and so do `AutoPeftModel`, TRL's scripts,
`transformers serve` and vLLM (see `xgenmm_hf.engines`).
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from xgenmm_hf.compat import (
    allow_adapters_of,
    fix_when_imported,
    has_no_video_processor,
    keep_sizes_with_tiles,
    keep_vision2seq,
    leave_out_image_targets,
    publish,
)
from xgenmm_hf.modeling.compat_xgenmm import IMAGE_TEXT_AUTO_CLASSES, AutoModelForVision2Seq
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig, XGenMMResamplerConfig
from xgenmm_hf.modeling.image_processing_xgenmm import XGenMMImageProcessor
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration, XGenMMModel
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.modeling.tokenization_xgenmm import register_tokenizer


def register() -> None:
    """Registers every class; calling it again changes nothing."""
    AutoConfig.register(XGenMMConfig.model_type, XGenMMConfig, exist_ok=True)
    AutoConfig.register(XGenMMResamplerConfig.model_type, XGenMMResamplerConfig, exist_ok=True)
    AutoModel.register(XGenMMConfig, XGenMMModel, exist_ok=True)
    for auto_class in IMAGE_TEXT_AUTO_CLASSES:
        auto_class.register(XGenMMConfig, XGenMMForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(XGenMMConfig, slow_image_processor_class=XGenMMImageProcessor, exist_ok=True)
    AutoProcessor.register(XGenMMConfig, XGenMMProcessor, exist_ok=True)
    register_tokenizer(XGenMMConfig)
    has_no_video_processor(XGenMMConfig)
    publish(XGenMMForConditionalGeneration)
    keep_vision2seq(AutoModelForVision2Seq)
    allow_adapters_of("xgenmm_hf")
    fix_when_imported("trl.trainer.utils", keep_sizes_with_tiles)
    fix_when_imported("trl.trainer.sft_trainer", leave_out_image_targets)


register()
