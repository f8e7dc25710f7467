"""The rows of a stage: lengths are measured before a mixture chooses rows, and change nothing about the choice."""

import json

import pytest
from run_rows import ON_CPU, preference_rows, save_rows

from xgenmm_hf import TINY_MODEL, XGenMMProcessor
from xgenmm_hf.data.lengths import COLUMNS, add_lengths
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.training.arguments import parse_recipe
from xgenmm_hf.training.loading import load_stage_rows


MIXTURES = {
    "numbers": "data: {a.jsonl: 4, b.jsonl: 9}\nseed: 3\n",
    "weights": "datasets:\n- {path: a.jsonl, weight: 3}\n- {path: b.jsonl, weight: 1}\n",
    "one": "datasets: [{path: a.jsonl, weight: 1}]\n",
}


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two files of chats of different lengths; their cache is in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, number in (("a", 10), ("b", 4)):
        rows = [
            {"conversations": [{"from": "human", "value": "Q " * index}, {"from": "gpt", "value": f"{name}{index}"}]}
            for index in range(1, number + 1)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe_of(mixture, stage="sft", *options):
    return parse_recipe(stage, ["--model_name_or_path", TINY_MODEL, "--mixture", str(mixture), *ON_CPU, *options])


@pytest.mark.parametrize("form", MIXTURES)
def test_lengths_change_neither_rows_nor_their_order(folder, processor, form, monkeypatch):
    mixture = folder / "mixture.yaml"
    mixture.write_text(MIXTURES[form])
    expected = add_lengths(load_mixture(mixture).dataset, processor)
    # Lengths that come too late make the library write the chosen rows anew.
    monkeypatch.setattr("datasets.Dataset.flatten_indices", lambda *_, **__: pytest.fail("rows were written anew"))
    rows, _ = load_stage_rows(recipe_of(mixture), processor)
    assert rows.to_list() == expected.to_list()
    assert rows.column_names == expected.column_names
    assert rows.features == expected.features
    assert rows[:]["num_tokens"] == [one["num_tokens"] for one in expected]


def test_pairs_are_not_measured(tmp_path, processor):
    saved = save_rows(preference_rows(3), tmp_path / "rows", "preference")
    rows, _ = load_stage_rows(recipe_of(saved, "dpo"), processor)
    assert not set(COLUMNS) & set(rows.column_names)
    assert rows["id"][:] == ["0", "1", "2"]


def test_rows_of_another_kind_are_refused_before_they_are_measured(folder, processor, monkeypatch):
    (folder / "mixture.yaml").write_text(MIXTURES["numbers"])
    monkeypatch.setattr("xgenmm_hf.training.loading.add_lengths", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(ValueError, match="rows of kind chat; xgenmm train pretrain takes rows of kind pretraining"):
        load_stage_rows(recipe_of(folder / "mixture.yaml", "pretrain"), processor)
