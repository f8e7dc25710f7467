"""The text of a run's model card."""

from types import SimpleNamespace

import pytest

from xgenmm_hf.training.card import card_text


@pytest.mark.parametrize(
    ("stage", "title"),
    [("dpo", "Preference tuning (DPO) of `base`"), ("sft", "Supervised fine-tuning of `base`")],
)
def test_the_stage_is_named_as_it_is_written(stage, title):
    model = SimpleNamespace(use_peft=False)
    recipe = SimpleNamespace(stage=stage, base="base", model=model, options={"beta": 0.1})
    assert title in card_text(recipe, "mine", {"rows": 3}, {"loss": 0.5}, "No row was left out.")
