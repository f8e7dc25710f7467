"""``xgenmm push``: a checkpoint folder to a Hub repository, in one commit."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xgenmm_hf.cli import options


if TYPE_CHECKING:
    from xgenmm_hf.hub.push import Upload


def push(
    path: Annotated[Path, Argument(metavar="PATH", help="Checkpoint folder, or one with an adapter.")],
    repo_id: Annotated[str, Argument(metavar="REPO_ID", help="Repository as organisation/name.")],
    private: Annotated[bool, Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show what would be sent; contact nothing.")] = False,
    license: Annotated[str | None, Option(help="Such as apache-2.0.", show_default="the folder's card's")] = None,
    base_model: Annotated[str | None, Option(help="Repository of its base model.", show_default="as above")] = None,
    dataset: Annotated[list[str] | None, Option(help="Dataset repository that it was trained on; repeat it.")] = None,
    results: Annotated[list[Path] | None, Option(help="results.json of `xgenmm eval` on it; repeat it.")] = None,
    revision: Annotated[str | None, Option(help="Branch, made if missing.", show_default="the main branch")] = None,
    message: Annotated[str, Option("--message", "-m", help="Message of the commit.")] = "Upload with xgenmm-hf",
    as_json: options.AsJson = False,
) -> None:
    """Push a checkpoint to the Hub: safetensors, code, processor and a model card."""
    from xgenmm_hf.evaluation.results import read_result
    from xgenmm_hf.hub import push as sending

    facts = sending.Facts(license, base_model, dataset or (), [read_result(file) for file in results or []])
    if note := sending.prompt_note(facts.results):
        print(f"note: {note}", file=sys.stderr)
    plan = sending.plan_push(path, repo_id, facts)
    if not as_json:
        show(plan)
    commit = None if dry_run else sending.push(plan, private=private, revision=revision, message=message)
    if as_json:
        sizes = plan.sizes
        record = {"repository": plan.repo_id, "bytes": sum(sizes.values()), "left_out": plan.left_out}
        print(json.dumps({**record, "card": plan.card, "files": sizes, "commit": commit}, ensure_ascii=False))
    elif commit is not None:
        print(f"pushed: {commit}")


def show(plan: "Upload") -> None:
    """Prints a plan for people."""
    for name, size in plan.sizes.items():
        print(f"{size:>14,}  {name}")
    print(f"{sum(plan.sizes.values()):>14,}  bytes in {len(plan.files)} files for {plan.repo_id}")
    if plan.left_out:
        print(f"not sent: {', '.join(plan.left_out)}")
    print(f"\n{plan.card}")
