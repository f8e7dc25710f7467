"""Sending a checkpoint folder to a Hub repository: all of it in one commit, or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.adapters import ADAPTER_CONFIG
from xgenmm_hf.conversion.files import one_line, read_json
from xgenmm_hf.conversion.model_card import (
    TAGS,
    TASK,
    add_results,
    model_table,
    new_card,
    read_card,
    released_license,
    set_usage,
)
from xgenmm_hf.hub.contents import CARD, Files, collect, size_of, with_fields
from xgenmm_hf.inference.source import REPO_ID


# Files of an earlier commit that would be read instead of, or together with, the files that are sent now.
STALE = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "*_xgenmm.py", "adapter_config.json")


@dataclass(frozen=True)
class Facts:
    """What the caller says about a model; fields that are None or empty are taken from the folder's own card."""

    license: str | None = None  # as the Hub names it, such as apache-2.0
    base_model: str | None = None  # repository of the model that this one was made from
    datasets: Sequence[str] = ()  # repositories of what it was trained on
    results: Sequence[Mapping[str, Any]] = ()  # what `xgenmm eval` found, the content of each results.json


@dataclass(frozen=True)
class Upload:
    """A commit that is ready to be sent: its files with the card, and the names of the files that are not sent."""

    repo_id: str
    card: str
    files: Files
    left_out: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file by name."""
        return {name: size_of(content) for name, content in self.files.items()}


def plan_push(folder: Path, repo_id: str, facts: Facts | None = None) -> Upload:
    """Prepares a commit without contacting anything."""
    facts = facts or Facts()
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no repository: name it organisation/name.")
    for name in (*([facts.base_model] if facts.base_model else ()), *facts.datasets):
        if not REPO_ID.fullmatch(name):
            raise ValueError(f"{name!r} is no repository that a card could link to: name it organisation/name.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: give a checkpoint folder.")
    files, left_out = collect(folder)
    _check_results(folder, facts.results)
    base = None
    if ADAPTER_CONFIG in files:
        base = facts.base_model or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        if not base or not REPO_ID.fullmatch(base) or Path(base).exists():
            raise ValueError(
                f"The adapter in {folder} was trained on {base!r}, which nobody else can load: say --base-model "
                "organisation/name."
            )
        files[ADAPTER_CONFIG] = with_fields(folder / ADAPTER_CONFIG, base_model_name_or_path=base)
    card = write_card(folder, repo_id, facts, base=base)
    return Upload(repo_id, card, dict(sorted({**files, CARD: card.encode()}.items())), left_out)


def write_card(folder: Path, repo_id: str, facts: Facts, base: str | None = None) -> str:
    """Writes the card of a repository, based on the folder's own."""
    from xgenmm_hf.conversion.verify import expected_tensors
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

    name = repo_id.split("/")[-1]
    config = XGenMMConfig.from_pretrained(folder) if base is None else None
    card = read_card(folder / CARD)
    if card is None:
        table = {"Model": model_table(config, expected_tensors(config))} if config is not None else {}
        card = new_card(name, "An xGen-MM (BLIP-3) vision-language model in the `xgenmm-hf` layout.", table)
    data = card.data
    license = facts.license or data.license
    if not license and config is not None and released_license(config) != "apache-2.0":
        license = released_license(config)
    if not license:
        raise ValueError("The card needs a licence: say for example --license apache-2.0, or --license other.")
    data.license, data.pipeline_tag = license, TASK
    data.library_name = "transformers" if base is None else "peft"
    data.pop("licence", None)  # TRL's cards state the licence in a field that the Hub does not know
    data.tags = _merged(data.tags, TAGS)
    data.datasets = _merged(data.datasets, facts.datasets) or None
    data.base_model = facts.base_model or data.base_model or base
    set_usage(card, repo_id, folder, config, base)
    if facts.results:
        add_results(card, facts.results, name, prompt_note(facts.results))
    return str(card)


def _merged(present: Any, more: Sequence[str]) -> list[str]:
    """Returns metadata, given as one value or several, as a list with the missing values added."""
    values = [present] if isinstance(present, str) else present or ()
    return list(dict.fromkeys([*values, *more]))


def prompt_note(results: Sequence[Mapping[str, Any]]) -> str:
    """Says in which parts the prompts of results in one card differ; empty if in none.

    Results of one task are compared in all parts, others in those that do not depend on the task.
    """
    parts: set[str] = set()
    for one, other in combinations(results, 2):
        same = one["task"]["name"] == other["task"]["name"]
        shared = one["prompt"].keys() if same else {"form", "protocol", "shots"}
        parts |= {part for part in shared if one["prompt"].get(part) != other["prompt"].get(part)}
        parts |= {"system"} if one["config"].get("system") != other["config"].get("system") else set()
    listed = ", ".join(sorted(parts))
    return f"The prompts differ ({listed}): compare only rows that were asked alike." if parts else ""


def _check_results(folder: Path, results: Sequence[Any]) -> None:
    """Checks that evaluations were made with the weights that are sent."""
    if not results:
        return
    from xgenmm_hf.inference.provenance import describe_checkpoint

    own = describe_checkpoint(str(folder))["sha256"]
    for result in results:
        if result["checkpoint"].get("sha256") != own:
            raise ValueError(
                f"The results of {result['task']['name']!r} were measured with other weights or another config than "
                f"those in {folder} (model {result['checkpoint'].get('model')!r}): evaluate this checkpoint again."
            )


def push(
    plan: Upload, *, private: bool = False, revision: str | None = None, message: str = "", api: Any = None
) -> str:
    """Sends a commit: makes the repository if there is none, and commits everything at once.

    Weights and code of an earlier commit that the plan does not hold are deleted by the same commit.
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
                *(CommitOperationAdd(name, content) for name, content in plan.files.items()),
            ],
            commit_message=message or "Upload with xgenmm-hf",
            repo_type="model",
            revision=revision,
        )
    except LocalTokenNotFoundError:
        raise ValueError("The Hub does not know who you are: run `hf auth login` first.") from None
    except HfHubHTTPError as error:
        raise ValueError(_refusal(plan.repo_id, error)) from error
    return str(commit.commit_url)


def stale_files(present: Sequence[str], plan: Upload) -> list[str]:
    """Returns what a repository holds that would be mixed up with the files that are sent, sorted by name."""
    at_top = (name for name in present if "/" not in name and name not in plan.files)
    return sorted(name for name in at_top if any(fnmatch(name, pattern) for pattern in STALE))


def _refusal(repo_id: str, error: Any) -> str:
    """Says why the Hub refused, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"The Hub does not let you write to {repo_id} ({status}): run `hf auth login` with a token that may write."
        )
    return f"The Hub refused {repo_id} ({one_line(error):.300}); nothing was committed: try again."
