"""The embedded model, once for all of the demo's tests, and pages that are served."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import Browser, find_browser, open_browser

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import Loaded, load


@pytest.fixture(scope="package")
def loaded() -> Loaded:
    return load(TINY_MODEL, dtype="float32", device="cpu")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with open_browser(find_browser()) as browser:
        yield browser


@contextmanager
def served(page: Any) -> Iterator[str]:
    """Serves a page and gives its address."""
    from gradio import networking

    from xgenmm_hf.demo.page import launch_page

    with pytest.MonkeyPatch.context() as patch:
        # Gradio gives up where its own page does not answer within seconds, as on a machine that is busy.
        patch.setattr(networking, "url_ok", lambda url: True)
        _, address, _ = launch_page(page, prevent_thread_lock=True, quiet=True)
    yield address
    page.close(verbose=False)


@pytest.fixture(scope="session")
def serve_page() -> Any:
    pytest.importorskip("gradio", reason="the page needs Gradio")
    return served
