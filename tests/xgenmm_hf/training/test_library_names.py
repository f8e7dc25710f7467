"""The private names of libraries that training leans on exist in the installed versions, and the list is complete."""

import importlib.metadata
import inspect
from importlib import import_module

import pytest
import transformers
from trl import DPOTrainer, SFTTrainer

from xgenmm_hf.training.dpo import XGenMMDPOTrainer
from xgenmm_hf.training.guards import GuardedTrainerMixin
from xgenmm_hf.training.library_names import ATTRIBUTES, CHECKED_ON, FUNCTIONS, OVERRIDDEN
from xgenmm_hf.training.sft import XGenMMSFTTrainer


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
