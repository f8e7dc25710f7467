"""Shared by all tests: the seed, and the marks that Transformers' own common tests use."""

import pytest
import torch


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
    for mark in TRANSFORMERS_MARKS:
        config.addinivalue_line("markers", f"{mark}: set by Transformers' own tests")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
