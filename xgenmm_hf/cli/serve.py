"""``xgenmm serve``: a model behind OpenAI's chat API."""

import logging
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model


NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    model: options.Model = TINY_MODEL,
    name: Annotated[str | None, Option(help="What clients call the model.", show_default="the folder's name")] = None,
    host: Annotated[str, Option(help="Address to listen on; the default is reachable from here only.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    api_key: Annotated[str | None, Option(envvar="XGENMM_API_KEY", help="Key that requests must send.")] = None,
    allow_remote: options.AllowRemote = False,
    image_root: Annotated[Path | None, Option(help="Folder whose files file:// addresses may name.")] = None,
    max_batch: Annotated[int, Option(min=1, help="Requests that are computed together.")] = 16,
    max_batch_tokens: Annotated[int, Option(min=1, help="Tokens of context held for them together.")] = 65536,
    kept_mib: options.KeptMib = 1024,
    max_waiting: Annotated[int, Option(min=0, help="Requests that may wait beyond those.")] = 64,
    max_new_tokens: Annotated[int, Option(min=1, help="Longest answer that may be asked for.")] = 4096,
    max_images: Annotated[int, Option(min=0, help="Images in one request.")] = 16,
    max_pixels: Annotated[int, Option(min=1, help="Pixels of a request's images together.")] = 100_000_000,
    max_body_mib: Annotated[int, Option(min=1, help="Size of one request in MiB.")] = 32,
    max_body_seconds: Annotated[float, Option(min=1, help="Time for request headers, and again for the body.")] = 30,
    max_seconds: Annotated[float, Option(min=1, help="Time for one request, waiting included.")] = 120,
    grace_seconds: Annotated[float, Option(min=0, help="Time to finish requests when told to stop.")] = 30,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    access_log: Annotated[bool, Option("--access-log", help="Log every request.")] = False,
) -> None:
    """Serve a model behind OpenAI's chat API, batching the requests that come together."""
    given = locals()
    from xgenmm_hf.inference.source import is_local, resolve_checkpoint
    from xgenmm_hf.serving.settings import Settings

    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ValueError(f"Serving needs {', '.join(missing)}: pip install 'xgenmm-hf[serve]'.")
    source = resolve_checkpoint(model)
    limits = {field.name: given[field.name] for field in fields(Settings) if field.name in given}
    settings = Settings(**{**limits, "name": name or (Path(source).resolve().name if is_local(source) else source)})
    from xgenmm_hf.serving.server import is_loopback
    from xgenmm_hf.serving.server import serve as serve_model

    if access_log:
        logging.disable(logging.NOTSET)
    if api_key is None and not is_loopback(host):
        print(f"warning: anyone who reaches {host} can use this server; --api-key sets a key.", file=sys.stderr)
    loaded = load_model(source, dtype, device)

    def say(address: str) -> None:
        print(f"Serving {settings.name} at {address} in {loaded.dtype}; Ctrl-C stops", flush=True)

    serve_model(loaded, settings, host, port, access_log=access_log, on_ready=say)
