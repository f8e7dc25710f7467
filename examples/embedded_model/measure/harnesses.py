"""Drawn stand-ins of benchmarks through VLMEvalKit and lmms-eval, each by its own main and with its own scoring.

    python -m embedded_model.measure.harnesses xgenmm_hf/assets/tiny --work runs/harnesses --count 200

It runs in an environment that has both harnesses (`make test-harnesses` makes one), and prints a row per benchmark.
"""

import importlib
import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from embedded_model.measure.stand_ins import FILES, write_stand_ins, write_tasks


def evaluate(harness: str, names: list[str], model: Path, output: Path, *further: str) -> None:
    """Runs `xgenmm eval` with a harness in this process."""
    harness_names = ["--data" if harness == "vlmevalkit" else "--tasks", *names]
    options = ["--harness", harness, "--model", str(model), "-o", str(output), "--dtype", "float32", "--device", "cpu"]
    sys.argv = ["xgenmm eval", *options, *harness_names, "--", *further]
    try:
        runpy.run_module("xgenmm_hf.cli.eval", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise


def through_vlmevalkit(model: Path, work: Path, count: int) -> dict[str, float]:
    """Returns VLMEvalKit's scores in percent, by data set; rated by exact matching."""
    write_stand_ins(work / "LMUData", count)
    os.environ["LMUData"] = str(work / "LMUData")  # noqa: SIM112
    os.environ.setdefault("PRED_FORMAT", "tsv")
    images = importlib.import_module("vlmeval.dataset.image_base").ImageBaseDataset
    prepare = images.prepare_tsv
    # It would download again what has not the digest of the real data.
    images.prepare_tsv = lambda self, url, file_md5=None: prepare(self, url)
    evaluate("vlmevalkit", list(FILES), model, work / "vlmevalkit", "--judge", "exact_matching")
    status = json.loads((work / "vlmevalkit" / model.name / "status.json").read_text(encoding="utf-8"))["datasets"]
    found = {name: status[name]["metrics"] for name in FILES}
    return {
        "POPE": found["POPE"]["split=Overall|acc"],
        "MME": _of_mme(found["MME"]["perception"], found["MME"]["reasoning"]),
        "MMBench_DEV_EN": 100 * found["MMBench_DEV_EN"]["split=dev|Overall"],
        "TextVQA_VAL": found["TextVQA_VAL"]["Overall"],
    }


def through_lmms_eval(model: Path, work: Path, count: int) -> dict[str, float]:
    """Returns lmms-eval's scores in percent, by task."""
    found = find_spec("lmms_eval")
    own = Path(str(found and found.origin)).parent / "tasks"
    names = write_tasks(work / "tasks", count, own)
    output = work / "lmms-eval"
    evaluate("lmms-eval", names, model, output, "--include_path", str(work / "tasks"))
    newest = max(output.rglob("*_results.json"), key=lambda file: file.stat().st_mtime)
    results = json.loads(newest.read_text(encoding="utf-8"))["results"]
    mme = results["mme_drawn"]
    return {
        "pope": 100 * results["pope_drawn"]["pope_accuracy,none"],
        "mme": _of_mme(mme["mme_perception_score,none"], mme["mme_cognition_score,none"]),
        "mmbench_en_dev_static": results["mmbench_en_dev_static_drawn"]["gpt_eval_score,none"],
        "vqav2_val": 100 * results["vqav2_val_drawn"]["exact_match,none"],
    }


def _of_mme(perception: float, cognition: float) -> float:
    """Returns MME's score in percent of its 2 800 points."""
    return (perception + cognition) / 28


def main(
    model: Annotated[Path, typer.Argument(help="The checkpoint.")],
    work: Annotated[Path, typer.Option(help="Where data and results go.")] = Path("runs/harnesses"),
    count: Annotated[int, typer.Option(min=28, help="Rows of each benchmark.")] = 196,
) -> None:
    """Prints a table of what each harness says of each stand-in."""
    typer.echo("| harness | benchmark | percent |\n|---|---|---|")
    for harness, scores in (("VLMEvalKit", through_vlmevalkit), ("lmms-eval", through_lmms_eval)):
        for name, percent in scores(model.absolute(), work.absolute(), count).items():
            typer.echo(f"| {harness} | {name} | {percent:.1f} |")


if __name__ == "__main__":
    typer.run(main)
