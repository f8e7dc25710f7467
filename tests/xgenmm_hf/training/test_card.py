"""A run's model card."""

import re
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from xgenmm_hf import TINY_MODEL, load
from xgenmm_hf.training.card import write_run_card


def written(tmp_path, stage="sft", use_peft=False, hub_model_id=None, base=TINY_MODEL) -> ModelCard:
    trainer = SimpleNamespace(
        is_world_process_zero=lambda: True,
        model=load(TINY_MODEL, dtype="float32", device="cpu").model,
    )
    recipe = SimpleNamespace(
        stage=stage,
        base=base,
        model=SimpleNamespace(use_peft=use_peft, model_revision="main"),
        options={"beta": 0.1},
        training=SimpleNamespace(output_dir=str(tmp_path / "run"), hub_model_id=hub_model_id),
    )
    (tmp_path / "run").mkdir()
    write_run_card(trainer, recipe, {"rows": 3}, {"loss": 0.5}, "No row was left out.")
    return ModelCard.load(tmp_path / "run" / "README.md")


@pytest.mark.parametrize(("stage", "title"), [("dpo", "Preference tuning (DPO)"), ("sft", "Supervised fine-tuning")])
def test_the_stage_is_named_as_it_is_written(tmp_path, stage, title):
    card = written(tmp_path, stage)
    assert title in card.text and "| rows | 3 |" in card.text and "No row was left out." in card.text
    assert stage in card.data.tags
    section = card.text.split("## Provenance")[1].split("\n## ")[0]
    assert re.search(r"- checkpoint: model \S+, sha256 [0-9a-f]{64}\n- processor: [0-9a-f]{64}\n", section)
    assert "- dtype: float32\n- device: cpu\n- attention: sdpa\n- versions: python " in section
    assert all(f", {name} " in section for name in ("xgenmm-hf", "torch", "transformers", "trl", "peft"))


def test_one_licence_and_the_path_of_the_run(tmp_path):
    card = written(tmp_path)
    assert card.data.license == "apache-2.0"
    assert "licence" not in card.data.to_dict()
    assert f'repository = "{tmp_path / "run"}"' in card.text


def test_the_licence_is_the_bases(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n\n# Base\n")
    assert written(tmp_path, base=str(base)).data.license == "cc-by-nc-4.0"


def test_an_adapter_names_its_base_and_its_repository(tmp_path):
    card = written(tmp_path, use_peft=True, hub_model_id="me/mine", base="someone/base")
    assert card.data.library_name == "peft" and card.data.base_model == "someone/base"
    assert 'repository = "me/mine"' in card.text and 'from_pretrained("someone/base"' in card.text
    assert card.text.lstrip().startswith("# mine")
