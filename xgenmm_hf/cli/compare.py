"""``xgenmm compare``: whether one result of an evaluation is better than another, or only luckier."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="The baseline: a results.json, or its folder.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER...", help="Results to compare with it.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write comparison.json, comparison.md and plots here."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Draws of the bootstrap and of the test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Their seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare results of the same task: differences, intervals, significance.

    Plots: by category, and against the number of examples where that differs.
    """
    from xgenmm_hf.evaluation.compare import compare as compare_results
    from xgenmm_hf.evaluation.compare import comparison_table
    from xgenmm_hf.evaluation.plots import plot_categories, plot_shots
    from xgenmm_hf.evaluation.results import read_result, write_files

    results = [read_result(file) for file in (first, *others)]
    found = [compare_results(results[0], other, resamples=resamples, seed=seed) for other in results[1:]]
    document = json.dumps(
        {"resamples": resamples, "seed": seed, "comparisons": [asdict(one) for one in found]}, ensure_ascii=False
    )
    table = "\n\n".join(map(comparison_table, found)) + "\n"
    if output is not None:
        folder = Path(output)
        write_files(folder, {"comparison.json": document + "\n", "comparison.md": table})
        plot_categories(results, folder / "categories.png")
        if len({result["config"]["shots"] for result in results}) > 1:
            plot_shots(results, folder / "shots.png")
    print(document if as_json else table, end="\n" if as_json else "")
