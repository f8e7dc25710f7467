"""A checkpoint folder to send, small enough to copy for each test."""

import shutil
from pathlib import Path

import pytest

from xgenmm_hf import TINY_MODEL


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "checkpoint"))
