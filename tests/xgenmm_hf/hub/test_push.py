"""The plan, and what is said to the Hub."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from results_of import make_result

from xgenmm_hf.hub.push import Facts, plan_push, prompt_note, push, stale_files, write_card
from xgenmm_hf.inference.provenance import describe_checkpoint


class Api:
    """Stands for `HfApi` and takes down what it is asked to do."""

    def __init__(self, present=(), private=False, failure=None):
        self.present, self.private, self.failure = present, private, failure
        self.asked: list[str] = []
        self.operations: list = []

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.asked.append(f"create {repo_id}")

    def repo_info(self, repo_id, *, repo_type, revision=None):
        siblings = [SimpleNamespace(rfilename=name) for name in self.present]
        return SimpleNamespace(private=self.private, siblings=siblings)

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.asked.append(f"branch {branch}")

    def create_commit(self, repo_id, operations, *, commit_message, repo_type, revision):
        if self.failure is not None:
            raise self.failure
        self.operations = operations
        self.asked.append(f"commit {commit_message}")
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.fixture
def plan(folder):
    return plan_push(folder, "someone/tiny", Facts("apache-2.0"))


def test_one_commit_carries_everything_and_clears_what_is_in_the_way(plan):
    api = Api(["model-00001-of-00002.safetensors", "model.safetensors", "README.md", "notes.md", "old_xgenmm.py"])
    assert push(plan, message="Second", api=api, revision="trial") == "https://hub/commit/1"
    assert api.asked == ["create someone/tiny", "branch trial", "commit Second"]
    deleted = [one.path_in_repo for one in api.operations if isinstance(one, CommitOperationDelete)]
    added = [one.path_in_repo for one in api.operations if isinstance(one, CommitOperationAdd)]
    assert deleted == ["model-00001-of-00002.safetensors", "old_xgenmm.py"] == stale_files(api.present, plan)
    assert added == list(plan.files) and "README.md" in added


def test_a_public_repository_is_not_taken_for_a_private_one(plan):
    api = Api()
    with pytest.raises(ValueError, match="exists already and is public"):
        push(plan, private=True, api=api)
    assert not any(asked.startswith("commit") for asked in api.asked)
    push(plan, private=True, api=Api(private=True))


def test_refusals_say_what_to_do(plan):
    with pytest.raises(ValueError, match="hf auth login"):
        push(plan, api=Api(failure=LocalTokenNotFoundError("no token")))
    for status, said in ((403, "with a token that may write"), (500, "nothing was committed")):
        response = SimpleNamespace(status_code=status, headers={}, request=None)
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = response
        with pytest.raises(ValueError, match=said):
            push(plan, api=Api(failure=error))


@pytest.mark.parametrize("repo_id", ["tiny", "a/b/c", "../x", ""])
def test_a_repositorys_name_has_two_parts(folder, repo_id):
    with pytest.raises(ValueError, match="organisation/name"):
        plan_push(folder, repo_id, Facts("mit"))


def test_links_are_repositories(folder):
    with pytest.raises(ValueError, match="no repository that a card could link to"):
        plan_push(folder, "a/b", Facts("mit", datasets=("https://example.com/data",)))


def test_results_of_other_weights_are_refused(folder):
    result = make_result([1.0])
    with pytest.raises(ValueError, match="measured with other weights"):
        plan_push(folder, "a/b", Facts("mit", results=(result,)))
    result["checkpoint"] = describe_checkpoint(str(folder))
    assert "| drawn shapes | accuracy | 1.0000 |" in plan_push(folder, "a/b", Facts("mit", results=(result,))).card


def test_rows_that_were_asked_otherwise_are_named_beside_each_other(folder):
    def asked(name, **prompt):
        result = make_result([1.0])
        return {**result, "task": {**result["task"], "name": name}, "prompt": {**result["prompt"], **prompt}}

    plain, other = asked("shapes"), asked("words", rendered="Else: {question}")
    assert prompt_note([plain, other]) == ""
    card = write_card(folder, "a/b", Facts("mit", results=(plain, other)))
    assert card.count(" | chat form |") == 2 and "compare only rows" not in card
    for changed, parts in (
        (asked("shapes", suffixes=["\nBriefly."], rendered="{question} Briefly."), "rendered, suffixes"),
        (asked("words", form="base", shots=4), "form, shots"),
        ({**other, "config": {**other["config"], "system": "Be brief."}}, "system"),
    ):
        note = f"The prompts differ ({parts}): compare only rows that were asked alike."
        assert prompt_note([plain, changed]) == note
        assert note in write_card(folder, "a/b", Facts("mit", results=(plain, changed)))
    card = write_card(folder, "a/b", Facts("mit", results=(asked("words", form="base", shots=4, suffixes=[]),)))
    assert " | base form, 4 shots |" in card and "prompt: base form, 4 shots" in card


def plain_text(content) -> str:
    """A file's content, as far as it is text."""
    return (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")


def test_an_adapter_of_a_local_folder_needs_a_base_to_link_to(folder):
    import torch
    from safetensors.torch import save_file

    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder), "r": 8}))
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="--base-model"):
        plan_push(folder, "a/b", Facts("mit"))
    plan = plan_push(folder, "a/b", Facts("mit", "someone/base"))
    assert "someone/base" in plan.card
    assert not any(str(folder) in plain_text(content) for content in plan.files.values())
    assert json.loads(plan.files["adapter_config.json"]) == {"base_model_name_or_path": "someone/base", "r": 8}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
