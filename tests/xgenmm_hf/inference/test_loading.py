"""Weights and config that do not fit are refused at load."""

import json
import shutil
from pathlib import Path

import pytest

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import load


def test_weights_that_the_config_does_not_use_are_an_error(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"no place for \(model\.language_model\.layers\.1") as caught:
        load(folder, device="cpu")
    assert str(caught.value).count("language_model.layers.") == 5
