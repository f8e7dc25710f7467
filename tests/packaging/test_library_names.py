"""The private and undocumented names of other libraries that the package leans on exist in the installed versions.

Engines and harnesses (vLLM, lmms-eval, VLMEvalKit) are not here: they run with pinned versions in environments of
their own. Before a ceiling in `setup.py` is raised, or a newer version is added below, these lists are compared with
it.
"""

import ast
import importlib.metadata
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import transformers
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from trl import DPOTrainer, SFTTrainer

import xgenmm_hf.auto
from xgenmm_hf.training.dpo import XGenMMDPOTrainer
from xgenmm_hf.training.guards import GuardedTrainerMixin
from xgenmm_hf.training.sft import XGenMMSFTTrainer


ROOT = Path(__file__).resolve().parents[2]
LIBRARY = [path for tree in ("modeling", "conversion", "xgenmm_hf") for path in sorted((ROOT / tree).rglob("*.py"))]

CHECKED_ON = {
    "transformers": ("4.57.1", "4.57.6", "5.20.2", "5.24.0"),
    "trl": ("1.14.0", "1.14.2", "1.16.0"),
    "peft": ("0.17.0", "0.21.2"),
    "accelerate": ("1.10.0", "1.15.0"),
    "datasets": ("4.7.0", "5.0.1", "5.2.0"),
    "torch": ("2.13.0",),
    "uvicorn": ("0.30.0", "0.54.0"),
}
"""Versions that the names below were compared with: the oldest allowed ones and those that the tests run on."""

BOUND_BY_NAMES = ("transformers", "trl", "peft", "accelerate")
"""Libraries that change such names often: an installed version between those above fails until it is compared.

The tests below run on newer versions, too, and say which name is gone."""

METHODS = {
    "transformers.Trainer": (
        "_get_output_dir",
        "_get_train_sampler",
        "_prepare_inputs",
        "_save_checkpoint",
        "_set_signature_columns_if_needed",
        "compute_loss",
        "create_optimizer",
        "evaluate",
        "train",
    ),
    "transformers.TrainerState": ("compute_steps",),
    "transformers.PreTrainedTokenizerFast": ("_batch_encode_plus", "_decode", "_encode_plus", "_save_pretrained"),
    "transformers.PreTrainedModel": ("_init_weights", "_can_set_attn_implementation"),
    "transformers.GenerationMixin": ("_expand_inputs_for_generation",),
    "transformers.LlavaNextProcessor": ("_get_num_multimodal_tokens",),
    "trl.trainer.dpo_trainer.DPOTrainer": ("_compute_loss",),
    "trl.trainer.sft_trainer.SFTTrainer": ("compute_loss",),
    "torch.cpu": ("_is_amx_tile_supported", "_is_avx512_bf16_supported"),
    "uvicorn.protocols.http.h11_impl.H11Protocol": ("connection_lost", "connection_made", "data_received"),
}
"""Methods by class (or functions by module) that our code overrides, wraps or calls.

vLLM and `transformers serve` call `_get_num_multimodal_tokens` of any processor; the library's own show its form.
"""

CLASS_ATTRIBUTES = {
    "transformers.PreTrainedModel": (
        "_auto_class",
        "_can_compile_fullgraph",
        "_no_split_modules",
        "_skip_keys_device_placement",
        "_supports_attention_backend",
        "_supports_flash_attn",
        "_supports_flex_attn",
        "_supports_sdpa",
        "_tp_plan",
    ),
    "transformers.PretrainedConfig": ("_attn_implementation", "_auto_class"),
    "transformers.PreTrainedTokenizerFast": ("_auto_class",),
    "transformers.ProcessorMixin": ("_auto_class",),
    "transformers.image_processing_utils.BaseImageProcessor": ("_auto_class",),
    "torch.Tensor": ("_version",),
}
"""Attributes and properties by class."""

ATTRIBUTES = {
    "trl.trainer.dpo_trainer.DPOTrainer": ("_is_vision_dataset",),
    "trl.trainer.sft_trainer.SFTTrainer": ("_is_vision_dataset",),
    "transformers.Trainer": ("_signature_columns", "callback_handler", "is_fsdp_enabled", "is_deepspeed_enabled"),
    "transformers.integrations.TensorBoardCallback": ("tb_writer",),
    "transformers.BatchEncoding": ("_encodings",),
    "transformers.cache_utils.CacheLayerMixin": ("is_initialized", "keys", "values"),
    "datasets.Dataset": ("_fingerprint",),
    "uvicorn.protocols.http.h11_impl.H11Protocol": ("cycle", "loop", "transport"),
    "uvicorn.protocols.http.h11_impl.RequestResponseCycle": ("response_complete",),
}
"""Attributes by the class whose source sets them."""

NAMES = (
    "transformers.modeling_layers.GradientCheckpointingLayer",
    "transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "transformers.models.auto.video_processing_auto.VIDEO_PROCESSOR_MAPPING",
    "transformers.models.siglip.modeling_siglip.eager_attention_forward",
    "transformers.processing_utils.ImagesKwargs",
    "transformers.processing_utils.MultiModalData",
    "transformers.processing_utils.TextKwargs",
    "transformers.utils.can_return_tuple",
    "transformers.utils.chat_template_utils.render_jinja_template",
    "transformers.utils.deprecation.deprecate_kwarg",
    "transformers.utils.generic.merge_with_config_defaults",
    "transformers.utils.hub.cached_file",
    "trl.data_utils.apply_chat_template",
    "trl.data_utils.prepare_multimodal_messages",
    "trl.trainer.utils.split_pixel_values_by_grid",
    "peft.auto.get_default_import_allowlist",
    "peft.tuners.tuners_utils.BaseTunerLayer",
    "peft.utils.AuxiliaryTrainingWrapper",
    "accelerate.utils.is_peft_model",
    "uvicorn.protocols.http.h11_impl.H11Protocol",
)
"""Functions, classes and tables that are not part of the libraries' documented surface."""

ONLY_IN = {
    "transformers.PreTrainedTokenizerFast._batch_encode_plus": "<5",
    "transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES": ">=5",
    "transformers.utils.generic.merge_with_config_defaults": ">=5",
    "peft.auto.get_default_import_allowlist": ">=0.19",
}
"""Names that some of the allowed versions lack, with the versions that have them; the code runs without them, too."""

NAMED_TUPLE = {"_asdict", "_make", "_replace"}


def installed(library: str) -> str:
    return importlib.metadata.version(library).partition("+")[0]


def is_expected(path: str) -> bool:
    """Tells whether the installed version should have a name."""
    return installed(path.partition(".")[0]) in SpecifierSet(ONLY_IN.get(path, ""))


def find(path: str):
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        return import_module(path)


def pairs(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(owner, name) for owner, names in table.items() for name in names]


@pytest.mark.parametrize("library", BOUND_BY_NAMES)
def test_the_installed_version_is_one_that_was_checked(library):
    if Version(installed(library)) > max(map(Version, CHECKED_ON[library])):
        pytest.skip(f"{library} {installed(library)} is newer than the versions that were compared by hand")
    assert installed(library) in CHECKED_ON[library]


@pytest.mark.parametrize(("owner", "name"), pairs(METHODS))
def test_method_exists(owner, name):
    assert callable(getattr(find(owner), name, None)) == is_expected(f"{owner}.{name}")


@pytest.mark.parametrize(("owner", "name"), pairs(CLASS_ATTRIBUTES))
def test_class_attribute_exists(owner, name):
    assert hasattr(find(owner), name) == is_expected(f"{owner}.{name}")


@pytest.mark.parametrize(("owner", "name"), pairs(ATTRIBUTES))
def test_attribute_is_set_by_its_class(owner, name):
    assert (f"self.{name}" in inspect.getsource(find(owner))) == is_expected(f"{owner}.{name}")


@pytest.mark.parametrize("path", NAMES)
def test_name_exists(path):
    module, _, name = path.rpartition(".")
    assert hasattr(import_module(module), name) == is_expected(path)


def test_every_library_has_its_versions():
    paths = {*METHODS, *CLASS_ATTRIBUTES, *ATTRIBUTES, *NAMES}
    assert {path.partition(".")[0] for path in paths} == set(CHECKED_ON)
    assert set(ONLY_IN) <= {*NAMES, *(".".join(pair) for table in (METHODS, ATTRIBUTES) for pair in pairs(table))}


@pytest.mark.parametrize("ours", [GuardedTrainerMixin, XGenMMSFTTrainer, XGenMMDPOTrainer])
def test_every_overridden_method_of_a_trainer_is_listed(ours):
    listed = {name for names in METHODS.values() for name in names}
    theirs = {name for base in (transformers.Trainer, SFTTrainer, DPOTrainer) for name in dir(base)}
    overridden = {name for name in vars(ours) if name in theirs and not name.startswith("__")}
    assert {name for name in overridden if callable(vars(ours)[name])} <= listed


def test_every_overridden_private_name_is_listed():
    for package in (xgenmm_hf.modeling, xgenmm_hf.training):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    modules = [module for name, module in sys.modules.items() if name.startswith("xgenmm_hf.")]
    ours = {one for module in modules for one in vars(module).values() if inspect.isclass(one)}
    listed = {name for table in (METHODS, CLASS_ATTRIBUTES) for names in table.values() for name in names}
    for one in (one for one in ours if one.__module__.startswith("xgenmm_hf.")):
        bases = [base for base in one.__mro__ if base.__module__.partition(".")[0] in CHECKED_ON]
        theirs = {name for base in bases for name in vars(base)} - {"_abc_impl"}
        names = {name for name in vars(one) if name.startswith("_") and not name.startswith("__")}
        assert names & theirs <= listed, one


def test_every_private_attribute_of_others_is_listed():
    """Private attributes that the sources read or set, and that no class or module of ours makes."""
    used, made = set(), set(NAMED_TUPLE)
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                made.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                made.add(node.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                (made if of_self and isinstance(node.ctx, ast.Store) else used).add(node.attr)
    listed = {name for table in (METHODS, CLASS_ATTRIBUTES, ATTRIBUTES) for names in table.values() for name in names}
    assert used - made - listed == set()
