"""The embedded model, and a server of it."""

import time

import pytest
from PIL import Image
from serving import run_server

from xgenmm_hf import TINY_MODEL


@pytest.fixture(scope="session")
def loaded():
    from xgenmm_hf.inference.loading import load

    return load(TINY_MODEL, device="cpu")


@pytest.fixture(scope="module")
def server(loaded):
    with run_server(loaded) as running:
        yield running


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Images of several shapes, so of several numbers of tiles."""
    images = [Image.new("RGB", size, color) for size, color in (((90, 60), "red"), ((40, 200), "blue"))]
    return [*images, Image.linear_gradient("L").resize((300, 70)).convert("RGB")]


@pytest.fixture
def endless(loaded):
    """A server whose answers never end by themselves, at a speed at which tests can keep up."""
    with run_server(loaded, max_batch=2, max_waiting=1, max_seconds=30) as running:
        engine = running.service.engine
        engine._ends = frozenset()
        step = engine._step

        def slow_step() -> None:
            time.sleep(0.005)
            step()

        engine._step = slow_step
        yield running
