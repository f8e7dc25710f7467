"""xGen-MM (BLIP-3) as a Transformers-native model family.

Importing this package loads neither torch nor Transformers: public names are resolved when they are first touched
(PEP 562), and touching any class registers the model family with Transformers' Auto classes first, exactly as
``import xgenmm_hf.auto`` does.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from xgenmm_hf.bulk.engines import BulkGenerator
    from xgenmm_hf.modeling.compat_xgenmm import AutoModelForVision2Seq
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
    from xgenmm_hf.modeling.image_processing_xgenmm import XGenMMImageProcessor
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration, XGenMMModel
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
    from xgenmm_hf.modeling.tokenization_xgenmm import XGenMMTokenizer
    from xgenmm_hf.training.collators import PretrainingCollator, SupervisedCollator
    from xgenmm_hf.training.dpo import XGenMMDPOTrainer
    from xgenmm_hf.training.preference import PreferenceCollator
    from xgenmm_hf.training.sft import XGenMMSFTTrainer

__version__ = "0.1.0"

TINY_MODEL: str = str(Path(__file__).resolve().parent / "assets" / "tiny")
"""Path of the embedded checkpoint, a few megabytes, that examples, demo and tests run on."""

TINY_BASE_MODEL: str = str(Path(__file__).resolve().parent / "assets" / "tiny_base")
"""Path of the base model that it was tuned from, for prompts with examples in the base models' form."""

_HOME_OF = {
    "AutoModelForVision2Seq": "compat_xgenmm",
    "BulkGenerator": "xgenmm_hf.bulk.engines",
    "PreferenceCollator": "xgenmm_hf.training.preference",
    "PretrainingCollator": "xgenmm_hf.training.collators",
    "SupervisedCollator": "xgenmm_hf.training.collators",
    "XGenMMConfig": "configuration_xgenmm",
    "XGenMMDPOTrainer": "xgenmm_hf.training.dpo",
    "XGenMMForConditionalGeneration": "modeling_xgenmm",
    "XGenMMImageProcessor": "image_processing_xgenmm",
    "XGenMMModel": "modeling_xgenmm",
    "XGenMMProcessor": "processing_xgenmm",
    "XGenMMSFTTrainer": "xgenmm_hf.training.sft",
    "XGenMMTokenizer": "tokenization_xgenmm",
}

__all__ = [
    "TINY_BASE_MODEL",
    "TINY_MODEL",
    "AutoModelForVision2Seq",
    "BulkGenerator",
    "PreferenceCollator",
    "PretrainingCollator",
    "SupervisedCollator",
    "XGenMMConfig",
    "XGenMMDPOTrainer",
    "XGenMMForConditionalGeneration",
    "XGenMMImageProcessor",
    "XGenMMModel",
    "XGenMMProcessor",
    "XGenMMSFTTrainer",
    "XGenMMTokenizer",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Resolves a public class on first use, after registering the family with the Auto classes."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    import_module("xgenmm_hf.auto")
    home = _HOME_OF[name]
    value = getattr(import_module(home if "." in home else f"xgenmm_hf.modeling.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the lazy names together with those already loaded."""
    return sorted({*globals(), *__all__})
