"""The card: what the Hub reads in it, and what people do."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from results_of import make_result

from xgenmm_hf import TINY_BASE_MODEL
from xgenmm_hf.conversion.model_card import EVALUATION, USE, read_card, set_part
from xgenmm_hf.hub.push import Facts, write_card


RUN_CARD = """---
license: cc-by-nc-4.0
licence: license
base_model: someone/base
datasets:
- someone/data
tags:
- trl
---

# Old name

Supervised fine-tuning of `someone/base`.

## Data

| source | rows |
|---|---:|
| chats | 24 |

## Recipe

```yaml
## no title
learning_rate: 2e-5
```

## Thanks

To all.
"""


def test_a_new_card_has_every_part(folder):
    loaded = ModelCard(write_card(folder, "someone/tiny", Facts("apache-2.0")))
    assert loaded.data.license == "apache-2.0"
    assert loaded.data.library_name == "transformers"
    assert loaded.data.pipeline_tag == "image-text-to-text"
    assert {"xgenmm", "blip-3"} <= set(loaded.data.tags)
    for part in ("# tiny", "## Use", "## Model", "## Limits", "## Citation", "transformers>=4.57.1,<6"):
        assert part in loaded.text
    assert 'repository = "someone/tiny"' in loaded.text and "apply_chat_template" in loaded.text


def test_what_a_run_wrote_is_kept_and_the_rest_renewed(folder):
    (folder / "README.md").write_text(RUN_CARD)
    card = ModelCard(write_card(folder, "me/new", Facts(datasets=("me/more",))))
    data = card.data.to_dict()
    assert data["license"] == "cc-by-nc-4.0" and data["base_model"] == "someone/base"
    assert "licence" not in data
    assert data["datasets"] == ["someone/data", "me/more"]
    assert data["tags"][0] == "trl"
    assert RUN_CARD.split("---")[2].strip() in card.text
    assert 'repository = "me/new"' in card.text


def test_writing_it_again_changes_nothing(folder):
    once = write_card(folder, "me/new", Facts("mit", "a/b", ("c/d",)))
    (folder / "README.md").write_text(once)
    assert write_card(folder, "me/new", Facts()) == once
    renamed = write_card(folder, "me/other", Facts())
    assert renamed == once.replace('"me/new"', '"me/other"')


def test_metrics_are_shown_to_people_and_to_the_hub(folder):
    facts = Facts("mit", results=(make_result([1.0, 0.0, 1.0, 1.0]),))
    card = ModelCard(write_card(folder, "me/new", facts))
    assert "| drawn shapes | accuracy | 0.7500 | 4 |" in card.text
    (entry,) = card.data.eval_results
    assert (entry.dataset_name, entry.metric_type, entry.metric_value) == ("drawn shapes", "accuracy", 0.75)


def test_an_evaluation_stays_where_there_is_no_newer_one(folder):
    once = write_card(folder, "me/new", Facts("mit", results=(make_result([1.0, 0.0]),)))
    (folder / "README.md").write_text(once)
    assert write_card(folder, "me/new", Facts()) == once
    newer = write_card(folder, "me/new", Facts(results=(make_result([1.0]),)))
    assert "| drawn shapes | accuracy | 1.0000 | 1 |" in newer and "0.5000" not in newer


def test_an_adapters_card_loads_the_base_first(folder):
    card = ModelCard(write_card(folder, "me/adapter", Facts("mit"), base="someone/base"))
    assert card.data.library_name == "peft" and card.data.base_model == "someone/base"
    assert 'from_pretrained("someone/base", trust_remote_code=True' in card.text


def test_a_base_model_is_shown_in_its_form(folder, tmp_path):
    card = write_card(Path(TINY_BASE_MODEL), "me/base", Facts("mit"))
    assert 'prompt = "<image>An image of"' in card and "apply_chat_template" not in card
    # one that was tuned on chats has a template, and takes one tile per image as before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": "none"}))
    assert "apply_chat_template" in write_card(folder, "me/chats", Facts("mit"))


def test_a_licence_is_asked_for(folder):
    with pytest.raises(ValueError, match="--license"):
        write_card(folder, "me/new", Facts())


def test_broken_metadata_is_said_plainly(tmp_path):
    path = tmp_path / "README.md"
    for content in ("---\na: [\n---\n", "---\n- a\n---\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"README\.md is no YAML mapping"):
            read_card(path)
    path.write_text("Just text.")
    assert read_card(path).text == "Just text."
    assert read_card(tmp_path / "none.md") is None


def test_a_part_that_somebody_broke_is_added_again_and_nothing_is_lost():
    card = ModelCard("---\nlicense: mit\n---\n\nText.\n\n<!-- xgenmm: use -->\nNo end.\n\n## Thanks\n\nTo all.\n")
    set_part(card, USE, "New.")
    set_part(card, EVALUATION, "Figures.")
    assert "No end.\n\n## Thanks\n\nTo all." in card.text and "New." in card.text and "Figures." in card.text
    set_part(card, EVALUATION, "Newer.")
    assert "Figures." not in card.text and card.text.count("Newer.") == 1
