"""Runs a harness: registers our adapter with it and passes everything else to the harness's own main."""

import json
import logging
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


logger = logging.getLogger(__name__)
PROMPT_FILE = "xgenmm_prompt.json"


class HarnessRun(NamedTuple):
    """What a harness measures, and how our adapter answers it.

    `names` are data sets or tasks by the harness's names, `output` is where it writes (None: its own choice),
    `options` are the adapter's, `further` those of the harness's own command.
    """

    harness: str
    names: Sequence[str]
    model: str
    output: str | None
    options: Mapping[str, Any]
    further: Sequence[str] = ()


def run_harness(run: HarnessRun, announce: Callable[[str], None] = logger.info) -> None:
    """Runs a harness; its own files hold the scores. `announce` is called with the prompt."""
    if run.harness not in HARNESSES:
        raise ValueError(f"There is no harness {run.harness!r}; there are {', '.join(HARNESSES)}.")
    title, module, package, start = HARNESSES[run.harness]
    if not run.names:
        raise ValueError(f"Name what to measure: {'--data' if run.harness == 'vlmevalkit' else '--tasks'} NAME ...")
    if find_spec(module) is None:
        raise ValueError(
            f"{title} is not installed: pip install {package}, in an environment with this package; "
            "docs/evaluation.md has the pinned one."
        )
    start(run, announce)


def _run_vlmevalkit(run: HarnessRun, announce: Callable[[str], None]) -> None:
    from xgenmm_hf.evaluation.harness.vlmevalkit import IMAGE_END, register

    name = Path(run.model).name
    register(name, run.model, **run.options)
    batch_size = run.options.get("batch_size", 1)
    if batch_size > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Under torchrun VLMEvalKit asks one question at a time: leave the batch size at 1.")
    folder = Path(run.output or "outputs") / name
    announce(_write_prompt(folder, run, IMAGE_END))
    arguments = ["--data", *run.names, "--model", name, *(["--work-dir", run.output] if run.output else [])]
    if batch_size > 1 and "--api-nproc" not in run.further:
        arguments += ["--api-nproc", str(batch_size)]
    _as_main(_vlmevalkit_main(), [*arguments, *run.further])
    # VLMEvalKit logs an error, continues, and exits as if nothing had failed.
    file = folder / "status.json"
    datasets = json.loads(file.read_text(encoding="utf-8")).get("datasets", {}) if file.is_file() else {}
    for data in run.names:
        entry = datasets.get(data, {})
        skipped = entry.get("skip_reason")
        if reason := entry.get("error_message") or (skipped if skipped == "invalid_dataset" else None):
            raise ValueError(f"VLMEvalKit did not score {data}: {' '.join(str(reason).split())}.")


def _vlmevalkit_main() -> str:
    """Returns VLMEvalKit's command: a module of the package, or run.py next to a cloned one."""
    if find_spec("vlmeval.run") is not None:
        return "vlmeval.run"
    import vlmeval

    file = Path(str(vlmeval.__file__)).parents[1] / "run.py"
    if not file.is_file():
        raise ValueError(f"VLMEvalKit's run.py is not next to its package ({file}): install it from a clone with -e.")
    return str(file)


def _run_lmms_eval(run: HarnessRun, announce: Callable[[str], None]) -> None:
    options = dict(run.options)
    batch_size, device = options.pop("batch_size", 1), options.pop("device", "auto")
    settings = {"pretrained": run.model, **options}
    if odd := [name for name, value in settings.items() if "," in str(value) or "=" in str(value)]:
        raise ValueError(f"lmms-eval takes no comma and no equals sign in {odd[0]}: {settings[odd[0]]!r:.80}.")
    arguments = ["--model", "xgenmm", "--model_args", ",".join(f"{name}={value}" for name, value in settings.items())]
    arguments += ["--tasks", ",".join(run.names), "--batch_size", str(batch_size)]
    arguments += ["--device", device] if device != "auto" else []
    if run.output:
        arguments += ["--output_path", run.output, "--log_samples"]
    announce(_write_prompt(Path(run.output) if run.output else None, run))
    before = set(Path(run.output).rglob("*_results.json")) if run.output else set()
    _as_main("lmms_eval", [*arguments, *run.further])
    # lmms-eval prints what failed, and exits as if nothing had failed.
    first = os.environ.get("RANK", "0") == "0"
    if run.output and first and set(Path(run.output).rglob("*_results.json")) == before:
        raise ValueError(f"lmms-eval did not score {', '.join(run.names)}: see its own message above.")


# Each harness's title, module, package to install, and function that starts it.
HARNESSES = {
    "vlmevalkit": ("VLMEvalKit", "vlmeval", "ms-vlmeval, or a clone of its repository", _run_vlmevalkit),
    "lmms-eval": ("lmms-eval", "lmms_eval", "lmms-eval", _run_lmms_eval),
}


def _write_prompt(folder: Path | None, run: HarnessRun, image_end: str = "\n") -> str:
    """Returns a description of the prompt, and writes it next to the harness's scores."""
    from PIL import Image

    from xgenmm_hf import XGenMMProcessor
    from xgenmm_hf.conversion.files import write_json
    from xgenmm_hf.evaluation.harness.conversations import render, system_in_force
    from xgenmm_hf.inference.prompts import build_messages

    system = system_in_force(run.model, run.options.get("system"))
    processor = XGenMMProcessor.from_pretrained(run.model)
    shown = render(processor, build_messages([Image.new("RGB", (1, 1))], "{question}"), system, image_end)
    text = f"prompt in force (the question is the harness's own):\n{shown.text}"
    if folder is not None:
        facts = {"harness": run.harness, "names": list(run.names), "model": run.model, "prompt": shown.text}
        how = {"options": run.options, "further": list(run.further)}
        file = folder / PROMPT_FILE
        before = json.loads(file.read_text(encoding="utf-8")).get("prompt") if file.is_file() else shown.text
        if before != shown.text:
            text += f"\nnote: earlier scores in {folder} had another prompt; they cannot be compared:\n{before}"
        write_json(file, {**facts, **how})
    return text


def _as_main(target: str, arguments: Sequence[str]) -> None:
    """Runs a module or a file as the process's main program, with its arguments."""
    before = sys.argv
    sys.argv = [target, *arguments]
    try:
        if target.endswith(".py"):
            sys.path.insert(0, str(Path(target).parent))
            runpy.run_path(target, run_name="__main__")
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        sys.argv = before
