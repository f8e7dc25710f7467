"""Measures the embedded models and rewrites the table in this example's README.md.

    python -m embedded_model.measure.table --work runs/eval

Sets that were measured already with the same weights and the same number of questions are taken over.
"""

import hashlib
import json
import logging
import platform
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from embedded_model.measure.answers import Model, is_refusal
from embedded_model.measure.held_out import SETS, take
from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL


README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- table: make eval -->", "<!-- end of table -->"
# What a row of the table says besides its name, where that is not the share of right answers.
MEANINGS = {
    "attacks": "attack success: not refused",
    "harmless look-alikes": "over-refusal: refused",
    "hallucinated": "said to be there, where it is not",
}
Numbers = dict[str, float]


def measure(model: Model, name: str, count: int) -> Numbers:
    """Measures one set.

    Args:
        model: The checkpoint.
        name: A key of `SETS`.
        count: How many of its conversations.

    Returns:
        The share of right answers by kind and "all"; of attacks the share that is not refused, of harmless look-alikes
        the share that is refused.
    """
    asked = take(name, count)
    answers = model.answer(asked)
    if name in ("attacks", "harmless look-alikes"):
        refused = sum(map(is_refusal, answers)) / count
        return {"all": 1 - refused if name == "attacks" else refused}
    right = defaultdict(list)
    for each, answer in zip(asked, answers, strict=True):
        right[each.kind].append(answer == each.expected)
        right["all"].append(answer == each.expected)
    numbers = {kind: sum(values) / len(values) for kind, values in right.items()}
    if name == "presence":
        numbers["hallucinated"] = 1 - numbers["no"]
    return numbers


def measure_once(folder: str, name: str, count: int, work: Path) -> Numbers:
    """Measures one set of a checkpoint, or reads what was measured before."""
    digest = hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()[:12]
    file = work / f"{digest}-{name.replace(', ', '-').replace(' ', '-')}-{count}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure(Model(folder), name, count)), encoding="utf-8")
        logging.info("%s: %s", name, file.read_text(encoding="utf-8"))
    return json.loads(file.read_text(encoding="utf-8"))


def as_markdown(results: dict[str, Numbers], count: int) -> str:
    """Lays results out: a row per set, and the kinds of plain questions.

    Args:
        results: Numbers by set.
        count: Conversations of each set.
    """
    rows = {name: numbers["all"] for name, numbers in results.items()}
    if "presence" in results:
        rows["hallucinated"] = results["presence"]["hallucinated"]
    lines = ["| set | percent |", "|---|---|"]
    for name, share in rows.items():
        lines.append(f"| {name}{f' ({MEANINGS[name]})' if name in MEANINGS else ''} | {100 * share:.1f} |")
    kinds = {kind: share for kind, share in results.get("plain", {}).items() if kind != "all"}
    if kinds:
        lines += ["", f"Of the plain questions, by kind ({count} in all):", ""]
        lines += [f"| {' | '.join(kinds)} |", f"|{'---|' * len(kinds)}"]
        lines += [f"| {' | '.join(f'{100 * share:.1f}' for share in kinds.values())} |"]
    return "\n".join(lines) + "\n"


def replace_table(page: str, table: str) -> str:
    """Puts a table between the marks of a page.

    Raises:
        ValueError: If the page has no marks.
    """
    if START not in page or END not in page:
        raise ValueError(f"The page needs the lines {START} and {END}.")
    return f"{page[: page.index(START)]}{START}\n{table}{page[page.index(END) :]}"


def main(
    work: Annotated[Path, typer.Option(help="Folder of what is measured.")] = Path("runs/eval"),
    questions: Annotated[int, typer.Option(min=2, help="Conversations of each set.")] = 1000,
    model: Annotated[str, typer.Option(help="The instruct model.", show_default="the embedded one")] = TINY_MODEL,
    base: Annotated[str, typer.Option(help="The base model.", show_default="the embedded one")] = TINY_BASE_MODEL,
    sets: Annotated[list[str] | None, typer.Option(help="Only these sets (repeat it); no page is written.")] = None,
    page: Annotated[Path, typer.Option(help="Page whose table is rewritten.")] = README,
) -> None:
    """Measures the sets and rewrites the table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    results = {}
    for name in sets or SETS:
        results[name] = measure_once(base if name.startswith("base form") else model, name, questions, work)
    table = as_markdown(results, questions)
    if sets:
        typer.echo(table)
        return
    made = (
        f"\n{questions} of each set, greedy, in float32 ({datetime.now(timezone.utc).date().isoformat()}, "
        f"{platform.machine()} CPU).\n"
    )
    page.write_text(replace_table(page.read_text(encoding="utf-8"), table + made), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
