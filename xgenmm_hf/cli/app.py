"""The ``xgenmm`` command: puts the verbs together."""

import logging
import warnings
from functools import partial
from typing import Annotated

import typer
from typer import Option

from xgenmm_hf import __version__
from xgenmm_hf.cli.ask import ask
from xgenmm_hf.cli.chat import chat
from xgenmm_hf.cli.console import quiet_libraries
from xgenmm_hf.cli.convert import convert
from xgenmm_hf.cli.data import data
from xgenmm_hf.cli.demo import demo
from xgenmm_hf.cli.errors import friendly_errors
from xgenmm_hf.cli.eval import evaluate
from xgenmm_hf.cli.explain import explain
from xgenmm_hf.cli.export import export
from xgenmm_hf.cli.generate import generate
from xgenmm_hf.cli.info import info
from xgenmm_hf.cli.push import push
from xgenmm_hf.cli.recipes import recipes
from xgenmm_hf.cli.run import CONTEXT as RUN_CONTEXT
from xgenmm_hf.cli.run import run
from xgenmm_hf.cli.serve import serve
from xgenmm_hf.cli.train import CONTEXT as TRAIN_CONTEXT
from xgenmm_hf.cli.train import train


app = typer.Typer(
    name="xgenmm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"xgenmm {__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    context: typer.Context,
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """xGen-MM (BLIP-3) models: ask about images, inspect, convert, export and train checkpoints."""
    # Logs and warnings are silenced only during a command, because the caller may be a program, not a shell.
    context.call_on_close(partial(logging.disable, logging.root.manager.disable))
    context.with_resource(warnings.catch_warnings())
    quiet_libraries()


for verb in (ask, info, convert, export, recipes, data, chat, serve, demo, generate, push, explain):
    app.command(verb.__name__)(friendly_errors(verb))
app.command("eval")(friendly_errors(evaluate))
app.command("run", context_settings=RUN_CONTEXT)(friendly_errors(run))
app.command("train", context_settings=TRAIN_CONTEXT)(friendly_errors(train))


@friendly_errors
def main() -> None:
    """Runs the command line with the process's arguments."""
    app()
