"""``xgenmm serve``: a model behind OpenAI's chat API."""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.convert import Dtype


NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder or Hub repository.", show_default="the embedded tiny model")
    ] = TINY_MODEL,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the folder's or repository's name")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reachable from here only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="XGENMM_API_KEY", help="Key that requests must bear.", show_envvar=True)
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Fetch images from public http(s) addresses.")
    ] = False,
    image_root: Annotated[Path | None, typer.Option(help="Folder whose files file:// addresses may name.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Requests that are computed together.")] = 16,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of context held for them together.")] = 65536,
    kept_mib: Annotated[int, typer.Option(min=0, help="MiB of images' tokens kept for when they come again.")] = 1024,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait beyond those.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that may be asked for.")] = 4096,
    max_images: Annotated[int, typer.Option(min=0, help="Images in one request.")] = 16,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of a request's images together.")] = 100_000_000,
    max_body_mib: Annotated[int, typer.Option(min=1, help="Size of one request in MiB.")] = 32,
    max_body_seconds: Annotated[
        float, typer.Option(min=1, help="Time to send a request's headers, and again for its body.")
    ] = 30,
    max_seconds: Annotated[float, typer.Option(min=1, help="Time for one request, waiting included.")] = 120,
    grace_seconds: Annotated[float, typer.Option(min=0, help="Time to finish requests when told to stop.")] = 30,
    dtype: Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")] = Dtype.auto,
    device: Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")] = "auto",
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
) -> None:
    """Serve a model behind OpenAI's chat API, batching the requests that come together."""
    from xgenmm_hf.inference.source import is_local, resolve_model
    from xgenmm_hf.serving.settings import Settings

    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ValueError(f"Serving needs {', '.join(missing)}: pip install 'xgenmm-hf[serve]'.")
    source = resolve_model(model)
    settings = Settings(
        name=name or (Path(source).resolve().name if is_local(source) else source),
        api_key=api_key,
        max_batch=max_batch,
        max_batch_tokens=max_batch_tokens,
        kept_mib=kept_mib,
        max_waiting=max_waiting,
        max_new_tokens=max_new_tokens,
        max_images=max_images,
        max_pixels=max_pixels,
        max_body_mib=max_body_mib,
        max_body_seconds=max_body_seconds,
        max_seconds=max_seconds,
        grace_seconds=grace_seconds,
        image_root=image_root,
        allow_remote=allow_remote,
    )
    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.inference.loading import load
    from xgenmm_hf.serving.server import is_loopback
    from xgenmm_hf.serving.server import serve as serve_model

    if is_local(source):
        hide_loading_bars()
    if access_log:
        logging.disable(logging.NOTSET)
    if api_key is None and not is_loopback(host):
        print(f"warning: anyone who reaches {host} can use this server; --api-key sets a key.", file=sys.stderr)
    loaded = load(source, dtype=dtype.value, device=device)

    def say(address: str) -> None:
        print(f"Serving {settings.name} at {address} in {loaded.dtype}; Ctrl-C stops", flush=True)

    serve_model(loaded, settings, host, port, access_log=access_log, on_ready=say)
