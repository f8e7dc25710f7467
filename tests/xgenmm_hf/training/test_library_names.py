"""The private names of TRL and Transformers that training leans on exist in the installed versions.

`setup.py` has ceilings for these libraries; before a ceiling is raised this list is compared with the new version.
"""

import importlib.metadata
import inspect
from importlib import import_module

import pytest
import transformers
from trl import DPOTrainer, SFTTrainer

from xgenmm_hf.training.dpo import XGenMMDPOTrainer
from xgenmm_hf.training.guards import GuardedTrainerMixin
from xgenmm_hf.training.sft import XGenMMSFTTrainer


CHECKED_ON = {
    "transformers": ("4.57.6", "5.24.0"),
    "trl": ("1.16.0",),
    "peft": ("0.21.2",),
    "accelerate": ("1.15.0",),
}
"""Versions that the names below were last compared with, and that the tests run on."""

OVERRIDDEN = {
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
    "trl.trainer.dpo_trainer.DPOTrainer": ("_compute_loss",),
}
"""Methods by class that our trainers override or call."""

ATTRIBUTES = {
    "trl.trainer.dpo_trainer.DPOTrainer": ("_is_vision_dataset",),
    "trl.trainer.sft_trainer.SFTTrainer": ("_is_vision_dataset",),
    "transformers.Trainer": ("_signature_columns", "callback_handler", "is_fsdp_enabled", "is_deepspeed_enabled"),
    "transformers.integrations.TensorBoardCallback": ("tb_writer",),
}
"""Attributes by the class whose source sets them."""

FUNCTIONS = (
    "trl.data_utils.apply_chat_template",
    "trl.data_utils.prepare_multimodal_messages",
    "peft.tuners.tuners_utils.BaseTunerLayer",
    "peft.utils.AuxiliaryTrainingWrapper",
    "transformers.utils.chat_template_utils.render_jinja_template",
)
"""Functions and classes that are not part of the libraries' documented surface."""


def find(path: str):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("library", CHECKED_ON)
def test_the_installed_version_is_one_that_was_checked(library):
    assert importlib.metadata.version(library) in CHECKED_ON[library]


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in OVERRIDDEN.items() for name in names])
def test_method_exists(owner, name):
    assert callable(getattr(find(owner), name))


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in ATTRIBUTES.items() for name in names])
def test_attribute_is_set_by_its_class(owner, name):
    assert f"self.{name}" in inspect.getsource(find(owner))


@pytest.mark.parametrize("path", FUNCTIONS)
def test_function_exists(path):
    assert find(path) is not None


@pytest.mark.parametrize("ours", [GuardedTrainerMixin, XGenMMSFTTrainer, XGenMMDPOTrainer])
def test_every_overridden_method_is_listed(ours):
    listed = {name for names in OVERRIDDEN.values() for name in names}
    theirs = {name for base in (transformers.Trainer, SFTTrainer, DPOTrainer) for name in dir(base)}
    overridden = {name for name in vars(ours) if name in theirs and not name.startswith("__")}
    assert {name for name in overridden if callable(vars(ours)[name])} <= listed
