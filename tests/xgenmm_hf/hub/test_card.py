"""The card: what the Hub reads in it, and what people do."""

import pytest
import yaml
from huggingface_hub import ModelCard
from results_of import make_result

from xgenmm_hf.hub.card import Facts, read_card, split_sections, write_card
from xgenmm_hf.inference.describing import describe


RUN_CARD = """---
license: cc-by-nc-4.0
base_model: someone/base
datasets:
- someone/data
tags:
- trl
---

# Old name

Supervised fine-tuning of `someone/base`.

## Use

old code

## Data

| source | rows |
|---|---:|
| chats | 24 |

## Recipe

```yaml
## no title
learning_rate: 2e-5
```

## License

old

## Thanks

To all.
"""


def test_a_new_card_has_every_part(folder):
    card = write_card(folder, "someone/tiny", Facts("apache-2.0"), description=describe(folder))
    loaded = ModelCard(card)
    assert loaded.data.license == "apache-2.0"
    assert loaded.data.library_name == "transformers"
    assert loaded.data.pipeline_tag == "image-text-to-text"
    assert {"xgenmm", "blip-3"} <= set(loaded.data.tags)
    intro, sections = split_sections(loaded.text)
    assert "# tiny" in intro
    assert list(sections) == ["Model", "Use", "Limits", "Licence", "Citation"]
    assert 'repository = "someone/tiny"' in sections["Use"] and "apply_chat_template" in sections["Use"]
    assert "transformers>=4.57,<6" in sections["Use"]


def test_what_a_run_wrote_is_kept_and_the_rest_renewed(folder):
    (folder / "README.md").write_text(RUN_CARD)
    card = write_card(folder, "me/new", Facts(datasets=("me/more",)), description=describe(folder))
    data, text = ModelCard(card).data.to_dict(), ModelCard(card).text
    assert data["license"] == "cc-by-nc-4.0" and data["base_model"] == "someone/base"
    assert data["datasets"] == ["someone/data", "me/more"]
    assert data["tags"][0] == "trl"
    intro, sections = split_sections(text)
    assert "# new" in intro and "Old name" not in intro and "Supervised fine-tuning" in intro
    assert list(sections) == ["Model", "Use", "Data", "Recipe", "Limits", "Licence", "Citation", "Thanks"]
    assert "old code" not in text and "## no title" in sections["Recipe"]
    assert "cc-by-nc-4.0" in sections["Licence"]


def test_writing_it_again_changes_nothing(folder):
    description = describe(folder)
    once = write_card(folder, "me/new", Facts("mit", "a/b", ("c/d",)), description=description)
    (folder / "README.md").write_text(once)
    assert write_card(folder, "me/new", Facts(), description=description) == once


def test_metrics_are_shown_to_people_and_to_the_hub(folder):
    facts = Facts("mit", results=(make_result([1.0, 0.0, 1.0, 1.0]),))
    card = ModelCard(write_card(folder, "me/new", facts, description=describe(folder)))
    assert "| drawn shapes | accuracy | 0.7500 | 4 |" in card.text
    (entry,) = card.data.eval_results
    assert (entry.dataset_name, entry.metric_type, entry.metric_value) == ("drawn shapes", "accuracy", 0.75)


def test_an_evaluation_stays_where_there_is_no_newer_one(folder):
    description = describe(folder)
    facts = Facts("mit", results=(make_result([1.0, 0.0]),))
    once = write_card(folder, "me/new", facts, description=description)
    (folder / "README.md").write_text(once)
    assert write_card(folder, "me/new", Facts(), description=description) == once
    newer = write_card(folder, "me/new", Facts(results=(make_result([1.0]),)), description=description)
    assert "| drawn shapes | accuracy | 1.0000 | 1 |" in newer and "0.5000" not in newer


def test_an_adapters_card_loads_the_base_first(folder):
    card = ModelCard(write_card(folder, "me/adapter", Facts("mit"), base="someone/base"))
    assert card.data.library_name == "peft" and card.data.base_model == "someone/base"
    assert 'from_pretrained("someone/base", trust_remote_code=True' in card.text


def test_a_licence_is_asked_for(folder):
    with pytest.raises(ValueError, match="--license"):
        write_card(folder, "me/new", Facts())


def test_broken_metadata_is_said_plainly(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\na: [\n---\n")
    with pytest.raises(ValueError, match="is no YAML"):
        read_card(path)
    path.write_text("---\n- a\n---\n")
    with pytest.raises(ValueError, match="`name: value` lines"):
        read_card(path)
    path.write_text("Just text.")
    assert read_card(path) == ({}, "Just text.")


def test_metadata_is_plain_yaml(folder):
    card = write_card(folder, "me/new", Facts("mit"))
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
