"""One command per table: registers our adapter with a harness and hands everything else to the harness's own main."""

import json
import logging
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)
HARNESSES = ("vlmevalkit", "lmms-eval")
_INSTALL = {
    "vlmevalkit": "VLMEvalKit is not installed: install it from its repository (or pip install ms-vlmeval), in an "
    "environment with this package; docs/evaluation.md has the pinned one.",
    "lmms-eval": "lmms-eval is not installed: pip install lmms-eval, in an environment with this package; "
    "docs/evaluation.md has the pinned one.",
}
PROMPT_FILE = "xgenmm_prompt.json"


@dataclass(frozen=True)
class HarnessRun:
    """What a harness measures, and how our adapter answers it.

    Args:
        harness: A name in `HARNESSES`.
        names: Data sets or tasks by the harness's names.
        model: Checkpoint folder or Hub repository, of an adapter too.
        output: Where the harness writes; None: its own choice.
        options: Options of the adapter: `batch_size`, `max_new_tokens`, `system`, `image_mode`, `dtype`, `device`,
            `overlong`; those that are None are left out.
        further: Options of the harness's own command, as they stand.
    """

    harness: str
    names: Sequence[str]
    model: str
    output: str | None
    options: Mapping[str, Any]
    further: Sequence[str] = ()

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in self.options.items() if value is not None}


def run_harness(run: HarnessRun, announce: Callable[[str], None] | None = None) -> None:
    """Runs a harness; its own files hold the scores."""
    if run.harness not in HARNESSES:
        raise ValueError(f"There is no harness {run.harness!r}; there are {', '.join(HARNESSES)}.")
    if not run.names:
        raise ValueError(f"Name what to measure: {'--data' if run.harness == 'vlmevalkit' else '--tasks'} NAME ...")
    announce = announce or logger.info
    {"vlmevalkit": _run_vlmevalkit, "lmms-eval": _run_lmms_eval}[run.harness](run, announce)


def _run_vlmevalkit(run: HarnessRun, announce: Callable[[str], None]) -> None:
    if find_spec("vlmeval") is None:
        raise ValueError(_INSTALL[run.harness])
    from xgenmm_hf.evaluation.harness.vlmevalkit import IMAGE_END as VLMEVALKIT_IMAGE_END
    from xgenmm_hf.evaluation.harness.vlmevalkit import register

    name = Path(run.model).name
    register(name, run.model, **run.given)
    batch_size = run.given.get("batch_size", 1)
    folder = Path(run.output or "outputs") / name
    announce(_write_prompt(folder, run, VLMEVALKIT_IMAGE_END))
    arguments = ["--data", *run.names, "--model", name, *(["--work-dir", run.output] if run.output else [])]
    if batch_size > 1 and "--api-nproc" not in run.further:
        arguments += ["--api-nproc", str(batch_size)]
    _as_main(_vlmevalkit_main(), [*arguments, *run.further])
    _check_vlmevalkit(folder, run.names)


def _vlmevalkit_main() -> str:
    """Returns VLMEvalKit's command: a module of the package, or run.py beside a cloned one."""
    if find_spec("vlmeval.run") is not None:
        return "vlmeval.run"
    import vlmeval

    file = Path(str(vlmeval.__file__)).parents[1] / "run.py"
    if not file.is_file():
        raise ValueError(f"VLMEvalKit's run.py is not beside its package ({file}): install it from a clone with -e.")
    return str(file)


def _check_vlmevalkit(folder: Path, names: Sequence[str]) -> None:
    """Raises what failed: VLMEvalKit itself logs an error, goes on, and ends as if all were well."""
    file = folder / "status.json"
    if not file.is_file():
        return
    datasets = json.loads(file.read_text(encoding="utf-8")).get("datasets", {})
    for name in names:
        entry = datasets.get(name, {})
        skipped = entry.get("skip_reason")
        reason = entry.get("error_message") or (skipped if skipped == "invalid_dataset" else None)
        if reason:
            raise ValueError(f"VLMEvalKit did not score {name}: {' '.join(str(reason).split())}.")


def _run_lmms_eval(run: HarnessRun, announce: Callable[[str], None]) -> None:
    if find_spec("lmms_eval") is None:
        raise ValueError(_INSTALL[run.harness])
    options = dict(run.given)
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
    # lmms-eval prints what failed, and ends as if all were well.
    first = os.environ.get("RANK", "0") == "0"
    if run.output and first and set(Path(run.output).rglob("*_results.json")) == before:
        raise ValueError(f"lmms-eval did not score {', '.join(run.names)}: its own message stands above.")


def _write_prompt(folder: Path | None, run: HarnessRun, image_end: str = "\n") -> str:
    """Returns how our adapter asks, and writes it beside the harness's scores."""
    from xgenmm_hf import XGenMMProcessor
    from xgenmm_hf.evaluation.harness.conversations import render
    from xgenmm_hf.inference.adapters import adapter_base
    from xgenmm_hf.inference.prompts import system_turn
    from xgenmm_hf.inference.source import resolve_model

    source = run.model if adapter_base(run.model) else resolve_model(run.model)
    content = [{"type": "image"}, {"type": "text", "text": "{question}"}]
    system = system_turn(run.given.get("system"))
    processor = XGenMMProcessor.from_pretrained(source)
    shown = render(processor, [{"role": "user", "content": content}], system, image_end, opened=False)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"harness": run.harness, "names": list(run.names), "model": run.model, "prompt": shown.text}
        text = json.dumps({**facts, "options": run.given, "further": list(run.further)}, indent=1)
        (folder / PROMPT_FILE).write_text(text + "\n", encoding="utf-8")
    return f"prompt in force (the question is the harness's own):\n{shown.text}"


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
