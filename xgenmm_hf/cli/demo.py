"""``xgenmm demo``: a page in the browser to talk with a model about images."""

import importlib.util
import time
from typing import Annotated

from typer import Option

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model


_PATIENCE = 0.2
Models = Annotated[
    list[str] | None, Option(help="As for ask; repeat it to offer several.", show_default="the embedded ones")
]


def demo(
    model: Models = None,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0: every one, open to strangers.")] = "127.0.0.1",
    port: Annotated[
        int | None, Option(min=1, max=65535, help="Port to listen on.", show_default="the first free from 7860")
    ] = None,
    browser: Annotated[bool, Option(help="Open the page in a browser.")] = False,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Talk with a model about images on a web page."""
    from xgenmm_hf.inference.source import resolve_checkpoint

    # Cheap checks first: a wrong path should not wait for torch to load.
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('The page needs Gradio, which is not installed: pip install "xgenmm-hf[demo]".')
    sources = [resolve_checkpoint(one) for one in model or [TINY_MODEL]]

    from xgenmm_hf.demo.page import build_page, launch_page

    loaded = {source: load_model(source, dtype, device) for source in dict.fromkeys(sources)}
    if sources == [TINY_MODEL]:
        base = load_model(TINY_BASE_MODEL, dtype, device)
        loaded = {"the embedded model": loaded[TINY_MODEL], "the embedded base model": base}
    first = next(iter(loaded))
    page = build_page(loaded.pop(first), first, others=loaded)
    _, address, _ = launch_page(
        page, server_name=host, server_port=port, inbrowser=browser, share=False, quiet=True, prevent_thread_lock=True
    )
    print(f"Open {address} in a browser; Ctrl-C ends it.", flush=True)
    try:
        while page.is_running:
            time.sleep(_PATIENCE)
    except KeyboardInterrupt:
        pass
    finally:
        page.close(verbose=False)
