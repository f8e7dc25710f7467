"""xGen-MM (BLIP-3) as a Transformers-native model family.

Importing this package loads neither torch nor Transformers: public names are resolved when they are first touched
(PEP 562), and touching any class registers the model family with Transformers' Auto classes first, exactly as
``import xgenmm_hf.auto`` does.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # an alias of the same name marks what this package exports
    from xgenmm_hf.bulk.engines import BulkGenerator as BulkGenerator
    from xgenmm_hf.conversion.convert import convert_checkpoint as convert_checkpoint
    from xgenmm_hf.conversion.convert import convert_state_dict as convert_state_dict
    from xgenmm_hf.conversion.export import export_checkpoint as export_checkpoint
    from xgenmm_hf.conversion.export import export_state_dict as export_state_dict
    from xgenmm_hf.conversion.tokenizer import build_tokenizer as build_tokenizer
    from xgenmm_hf.data.hub_sets import HubSet as HubSet
    from xgenmm_hf.data.lengths import add_lengths as add_lengths
    from xgenmm_hf.data.loading import load_rows as load_rows
    from xgenmm_hf.data.mixture import load_mixture as load_mixture
    from xgenmm_hf.demo.page import build_page as build_page
    from xgenmm_hf.demo.page import launch_page as launch_page
    from xgenmm_hf.explain.addresses import ImageAddresses as ImageAddresses
    from xgenmm_hf.explain.addresses import image_token_addresses as image_token_addresses
    from xgenmm_hf.inference.asking import ask as ask
    from xgenmm_hf.inference.feature_cache import FeatureCache as FeatureCache
    from xgenmm_hf.inference.loading import load as load
    from xgenmm_hf.inference.quantisation import KEPT_WHOLE as KEPT_WHOLE
    from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM as RELEASED_SYSTEM
    from xgenmm_hf.modeling.compat_xgenmm import AutoModelForVision2Seq as AutoModelForVision2Seq
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig as XGenMMConfig
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMResamplerConfig as XGenMMResamplerConfig
    from xgenmm_hf.modeling.image_processing_xgenmm import XGenMMImageProcessor as XGenMMImageProcessor
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration as XGenMMForConditionalGeneration
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMModel as XGenMMModel
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor as XGenMMProcessor
    from xgenmm_hf.modeling.tiling_xgenmm import fit_into_grid as fit_into_grid
    from xgenmm_hf.modeling.tiling_xgenmm import select_grids as select_grids
    from xgenmm_hf.modeling.tiling_xgenmm import tile_layout as tile_layout
    from xgenmm_hf.modeling.tokenization_xgenmm import XGenMMTokenizer as XGenMMTokenizer
    from xgenmm_hf.training.collators import PreferenceCollator as PreferenceCollator
    from xgenmm_hf.training.collators import PretrainingCollator as PretrainingCollator
    from xgenmm_hf.training.collators import SupervisedCollator as SupervisedCollator
    from xgenmm_hf.training.dpo import XGenMMDPOTrainer as XGenMMDPOTrainer
    from xgenmm_hf.training.modules import lora_targets as lora_targets
    from xgenmm_hf.training.run import run_stage as run_stage
    from xgenmm_hf.training.sft import XGenMMSFTTrainer as XGenMMSFTTrainer

__version__ = "0.3.0"

TINY_MODEL: str = str(Path(__file__).resolve().parent / "assets" / "tiny")
"""Path of the embedded checkpoint, a few megabytes, that examples, demo and tests run on."""

TINY_BASE_MODEL: str = str(Path(__file__).resolve().parent / "assets" / "tiny_base")
"""Path of the base model that it was tuned from, for prompts with examples in the base models' form."""

_HOME_OF = {
    "KEPT_WHOLE": "inference.quantisation",
    "RELEASED_SYSTEM": "modeling.chat_xgenmm",
    "AutoModelForVision2Seq": "modeling.compat_xgenmm",
    "BulkGenerator": "bulk.engines",
    "FeatureCache": "inference.feature_cache",
    "HubSet": "data.hub_sets",
    "ImageAddresses": "explain.addresses",
    "PreferenceCollator": "training.collators",
    "PretrainingCollator": "training.collators",
    "SupervisedCollator": "training.collators",
    "XGenMMConfig": "modeling.configuration_xgenmm",
    "XGenMMDPOTrainer": "training.dpo",
    "XGenMMForConditionalGeneration": "modeling.modeling_xgenmm",
    "XGenMMImageProcessor": "modeling.image_processing_xgenmm",
    "XGenMMModel": "modeling.modeling_xgenmm",
    "XGenMMProcessor": "modeling.processing_xgenmm",
    "XGenMMResamplerConfig": "modeling.configuration_xgenmm",
    "XGenMMSFTTrainer": "training.sft",
    "XGenMMTokenizer": "modeling.tokenization_xgenmm",
    "add_lengths": "data.lengths",
    "ask": "inference.asking",
    "build_page": "demo.page",
    "build_tokenizer": "conversion.tokenizer",
    "convert_checkpoint": "conversion.convert",
    "convert_state_dict": "conversion.convert",
    "export_checkpoint": "conversion.export",
    "export_state_dict": "conversion.export",
    "fit_into_grid": "modeling.tiling_xgenmm",
    "image_token_addresses": "explain.addresses",
    "launch_page": "demo.page",
    "load": "inference.loading",
    "load_mixture": "data.mixture",
    "load_rows": "data.loading",
    "lora_targets": "training.modules",
    "run_stage": "training.run",
    "select_grids": "modeling.tiling_xgenmm",
    "tile_layout": "modeling.tiling_xgenmm",
}

__all__ = ["TINY_BASE_MODEL", "TINY_MODEL", "__version__"]
__all__ += list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Resolves a public name on first use, after registering the family with the Auto classes."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    import_module("xgenmm_hf.auto")
    value = getattr(import_module(f"xgenmm_hf.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the lazy names together with those already loaded."""
    return sorted({*globals(), *__all__})
