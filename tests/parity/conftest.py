"""The golden cases as fixtures."""

import pytest
from golden_cases import GoldenCase


@pytest.fixture(scope="session", params=["anyres", "base", "sliding"])
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    return GoldenCase(request.param)


@pytest.fixture(scope="session")
def anyres() -> GoldenCase:
    return GoldenCase("anyres")


@pytest.fixture(scope="session")
def base() -> GoldenCase:
    return GoldenCase("base")
