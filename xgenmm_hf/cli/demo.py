"""``xgenmm demo``: a page in the browser to talk with a model about images."""

import importlib.util
import time
from typing import Annotated

import typer

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.cli.convert import Dtype


_PATIENCE = 0.2


def demo(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder or Hub repository.", show_default="the embedded tiny model")
    ] = TINY_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: every one, with nothing to keep strangers out.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on.", show_default="the first free from 7860")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")] = Dtype.auto,
    device: Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")] = "auto",
) -> None:
    """Talk with a model about images on a web page."""
    from xgenmm_hf.inference.source import is_local, resolve_model

    # Cheap checks first: a wrong path should not wait for torch to load.
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('The page needs Gradio, which is not installed: pip install "xgenmm-hf[demo]".')
    source = resolve_model(model)

    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.demo.page import build_page, launch_page
    from xgenmm_hf.inference.loading import load

    if is_local(source):
        hide_loading_bars()
    loaded = load(source, dtype=dtype.value, device=device)
    if source == TINY_MODEL:
        base = load(TINY_BASE_MODEL, dtype=dtype.value, device=device)
        page = build_page(loaded, "the embedded model", base, "drawn shapes and short words only, no photographs")
    else:
        page = build_page(loaded, source)
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
