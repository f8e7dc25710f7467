"""Sending a checkpoint folder to a Hub repository: all of it in one commit, or nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.hub.card import Facts, write_card
from xgenmm_hf.hub.contents import CARD, Contents, File, adapter_base, collect, with_base
from xgenmm_hf.inference.source import REPO_ID


RESULT_FORMAT = "xgenmm-eval-1"
# What an earlier commit may have left and what would be read instead of, or together with, what is sent now.
STALE = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "*_xgenmm.py", "adapter_config.json")


@dataclass(frozen=True)
class Plan:
    """A commit that is ready to be sent.

    Attributes:
        repo_id: The repository.
        files: What goes along, the card among it, sorted by name.
        left_out: Names of what stays in the folder.
    """

    repo_id: str
    files: tuple[File, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def card(self) -> str:
        """The model card."""
        content = next(file.content for file in self.files if file.name == CARD)
        return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")


def plan_push(folder: Path, repo_id: str, facts: Facts | None = None) -> Plan:
    """Prepares a commit without contacting anything.

    Args:
        folder: A checkpoint folder, or one with an adapter.
        repo_id: The repository, as `organisation/name`.
        facts: What to say in the card besides what the folder says.

    Returns:
        The plan.

    Raises:
        ValueError: If the repository's name, the folder or the card's facts are not usable.
        FileNotFoundError: If weights are missing.
    """
    facts = facts or Facts()
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no repository: name it organisation/name.")
    for name in (*([facts.base_model] if facts.base_model else ()), *facts.datasets):
        if not REPO_ID.fullmatch(name):
            raise ValueError(f"{name!r} is no repository that a card could link to: name it organisation/name.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: give a checkpoint folder.")
    contents = collect(folder)
    check_results(folder, facts.results)
    base = description = None
    if contents.is_adapter:
        base = base_of(contents, facts)
        contents = with_base(contents, base)
    else:
        from xgenmm_hf.inference.describing import describe

        description = describe(folder)
    card = write_card(folder, repo_id, facts, description=description, base=base)
    files = sorted([*contents.files, File(CARD, card.encode())], key=lambda file: file.name)
    return Plan(repo_id, tuple(files), contents.left_out)


def base_of(contents: Contents, facts: Facts) -> str:
    """Returns the repository that an adapter's card and config name as its base.

    Args:
        contents: The folder's contents.
        facts: What the caller says; it wins.

    Returns:
        The repository.

    Raises:
        ValueError: If the adapter was trained on a folder and the caller does not say what that is elsewhere.
    """
    base = facts.base_model or adapter_base(contents.folder)
    if not base or not REPO_ID.fullmatch(base) or Path(base).exists():
        raise ValueError(
            f"The adapter in {contents.folder} was trained on {base!r}, which nobody else can load: say --base-model "
            "organisation/name."
        )
    return base


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads what `xgenmm eval` wrote.

    Args:
        paths: Files named results.json.

    Returns:
        Their contents.

    Raises:
        ValueError: If one is no such file.
    """
    results = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no file {path}: give a results.json that `xgenmm eval` wrote.")
        result = read_json(path)
        if result.get("format") != RESULT_FORMAT:
            raise ValueError(
                f"{path} has the format {result.get('format')!r}; `xgenmm eval` writes {RESULT_FORMAT!r}."
            )
        results.append(result)
    return results


def check_results(folder: Path, results: Sequence[Any]) -> None:
    """Checks that evaluations were made with the weights that are sent.

    Args:
        folder: The checkpoint folder.
        results: Evaluations.

    Raises:
        ValueError: If one was made with others.
    """
    if not results:
        return
    from xgenmm_hf.evaluation.results import describe_checkpoint

    own = describe_checkpoint(str(folder))["sha256"]
    for result in results:
        if result["checkpoint"].get("sha256") != own:
            raise ValueError(
                f"The results of {result['task']['name']!r} were measured with other weights or another config than "
                f"those in {folder} (model {result['checkpoint'].get('model')!r}): evaluate this checkpoint again."
            )


def push(plan: Plan, *, private: bool = False, revision: str | None = None, message: str = "", api: Any = None) -> str:
    """Sends a plan: makes the repository if there is none, and commits everything at once.

    Weights and code of an earlier commit that the plan does not hold are deleted by the same commit.

    Args:
        plan: What to send.
        private: Whether the repository is made private; one that is already there must be.
        revision: Branch, made if there is none; None: the main branch.
        message: Message of the commit.
        api: A `huggingface_hub.HfApi`; None: the default one, with the token that `hf auth login` keeps.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the Hub refuses, or the repository is public although a private one is asked for.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = api or HfApi()
    try:
        api.create_repo(plan.repo_id, repo_type="model", private=private, exist_ok=True)
        if private and not api.repo_info(plan.repo_id, repo_type="model").private:
            raise ValueError(
                f"{plan.repo_id} exists already and is public: make it private in its settings, or take another name."
            )
        if revision is not None:
            api.create_branch(plan.repo_id, branch=revision, exist_ok=True)
        info = api.repo_info(plan.repo_id, repo_type="model", revision=revision)
        stale = stale_files([sibling.rfilename for sibling in info.siblings or []], plan)
        commit = api.create_commit(
            plan.repo_id,
            [
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(file.name, file.content) for file in plan.files),
            ],
            commit_message=message or "Upload with xgenmm-hf",
            repo_type="model",
            revision=revision,
        )
    except LocalTokenNotFoundError:
        raise ValueError("The Hub does not know who you are: run `hf auth login` first.") from None
    except HfHubHTTPError as error:
        raise ValueError(refusal(plan.repo_id, error)) from error
    return str(commit.commit_url)


def stale_files(present: Sequence[str], plan: Plan) -> list[str]:
    """Returns what a repository holds that would be mixed up with a plan's files.

    Args:
        present: Names of the repository's files.
        plan: What is sent.

    Returns:
        Names, sorted.
    """
    sent = {file.name for file in plan.files}
    at_top = (name for name in present if "/" not in name and name not in sent)
    return sorted(name for name in at_top if any(fnmatch(name, pattern) for pattern in STALE))


def refusal(repo_id: str, error: Any) -> str:
    """Says why the Hub refused, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"The Hub does not let you write to {repo_id} ({status}): run `hf auth login` with a token that may write."
        )
    reason = " ".join(str(error).split())
    return f"The Hub refused {repo_id} ({reason[:300]}); nothing was committed: try again."


def as_json(plan: Plan, commit: str | None = None) -> str:
    """Returns a plan as JSON: names and sizes of its files, what stays, the card, and the commit if it was sent."""
    record = {
        "repository": plan.repo_id,
        "bytes": plan.size,
        "files": {file.name: file.size for file in plan.files},
        "left_out": list(plan.left_out),
        "card": plan.card,
        "commit": commit,
    }
    return json.dumps(record, ensure_ascii=False)
