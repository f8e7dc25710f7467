"""The embedded model at a desk, once for all of the demo's tests."""

import pytest

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import Loaded, load


@pytest.fixture(scope="package")
def loaded() -> Loaded:
    return load(TINY_MODEL, dtype="float32", device="cpu")
