"""Shared by all tests: the seed, what no test may leave to the next, the marks of Transformers' own common tests."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import pytest


TRANSFORMERS_MARKS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "generate",
    "kernels_test",
    "order",
    "torch_compile_test",
    "torch_export_test",
    "training_ci",
)


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until the libraries are imported, whose objects are no garbage
    with suppress(ImportError):  # environments of engines and harnesses have none
        from hypothesis import settings

        # How long an example takes depends on what else the machine does.
        settings.register_profile("suite", deadline=None)
        settings.load_profile("suite")
    for mark in TRANSFORMERS_MARKS:
        config.addinivalue_line("markers", f"{mark}: set by Transformers' own tests")
    # Every process of the tests has a cache of remote code of its own, in one place from its start to its end: Python
    # finds `transformers_modules` only where it found it first.
    os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="xgenmm-modules-")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Forks the server of programs without the package from a worker, which has imported no more than they need."""
    if "PYTEST_XDIST_WORKER" in os.environ and "xgenmm_hf" not in sys.modules:
        import forked
        import forked_others  # noqa: F401

        forked.start_here(forked.others)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives workers the files with slow tests first, so that none of them is left to one worker at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leaves what the imports made out of garbage collections, which else take a third of a second each."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop() -> Iterator[None]:
    """Forks the server of the tests' programs where any test needs it, before a test changes anything."""
    if forked := sys.modules.get("forked"):
        forked.start_here()
    return (yield)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """Leaves what is alive between two files out of garbage collections; every training run asks for some."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    import torch  # here, so that the process that only hands out tests starts at once

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Takes back what a test leaves in the environment: Transformers 4.57 keeps a training run's precision there."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
