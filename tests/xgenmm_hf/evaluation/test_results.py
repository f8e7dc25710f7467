"""Result files."""

import json

import pytest
from results_of import make_result

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.results import (
    other_prompt,
    read_result,
    write_result,
)
from xgenmm_hf.inference.provenance import describe_checkpoint


def test_what_is_written_is_read_again(tmp_path):
    result = make_result([1.0, 0.0, 1.0], categories=("a", "b"), shots=4, seed=7)
    write_result(result, tmp_path / "out")
    assert read_result(tmp_path / "out") == read_result(tmp_path / "out" / "results.json") == result
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"results.json"}
    assert result["config"]["form"] == "base"
    assert (result["config"]["shots"], result["config"]["seed"], result["config"]["max_new_tokens"]) == (4, 7, 256)
    assert {"python", "torch", "transformers", "xgenmm-hf"} <= result["provenance"]["versions"].keys()
    assert result["samples"][1] == {
        "id": "s1",
        "category": "b",
        "question": "Question 1?",
        "prompt": "prompt of s1",
        "images": [],
        "shots": [],
        "references": ["yes"],
        "answer": "answer 1",
        "score": 0.0,
    }


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    write_result(make_result([1.0]), tmp_path)
    before = (tmp_path / "results.json").read_text()
    spoiled = make_result([0.0])
    spoiled["samples"] = [object()]
    with pytest.raises(TypeError):
        write_result(spoiled, tmp_path)
    assert (tmp_path / "results.json").read_text() == before
    assert {file.name for file in tmp_path.iterdir()} == {"results.json"}


def test_undefined_scores_are_null(tmp_path):
    result = make_result([float("nan"), 1.0])
    write_result(result, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["scores"]["accuracy"] is None
    assert [one["score"] for one in found["samples"]] == [None, 1.0]


def test_the_checkpoint_is_named_by_its_contents(tmp_path):
    assert describe_checkpoint("org/never-loaded") == {"model": "org/never-loaded"}
    tiny = describe_checkpoint(TINY_MODEL)
    (tmp_path / "config.json").write_text("{}")
    first = describe_checkpoint(str(tmp_path))["sha256"]
    (tmp_path / "config.json").write_text("[]")
    assert len({tiny["sha256"], first, describe_checkpoint(str(tmp_path))["sha256"]}) == 3
    assert tiny == describe_checkpoint(TINY_MODEL)


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(ValueError, match="no result file at"):
        read_result(tmp_path)
    file = tmp_path / "results.json"
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"format": "other"}', "no result of"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_result(file)


def test_results_with_another_prompt_are_not_replaced_without_a_word(tmp_path):
    result = make_result([1.0])
    assert other_prompt(tmp_path, result["prompt"]) == ""
    write_result(result, tmp_path)
    assert other_prompt(tmp_path, result["prompt"]) == ""
    told = other_prompt(tmp_path, {**result["prompt"], "suffixes": ["\nBriefly."]})
    assert "another prompt (suffixes)" in told
    assert "cannot be compared" in told
