"""What a model's name means, without asking any other machine."""

import json

import pytest

from xgenmm_hf.inference.source import is_local, resolve_model


@pytest.mark.parametrize("name", ["organisation/name", "Salesforce/xgen-mm-phi3-mini-instruct-r-v1.5", "a/b"])
def test_repositories_pass_through(name):
    assert resolve_model(name) == name
    assert not is_local(name)


@pytest.mark.parametrize(
    "name",
    ["", "name", "/a/b", "./a/b", "../a/b", "a/b/c", "a//b", "a/", "a/b.", "~/a", "a\\b", "https://a/b", "a/b\n"],
)
def test_what_cannot_be_a_repository_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        resolve_model(name)


def test_folders(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "xgenmm"}))
    assert resolve_model(tmp_path) == str(tmp_path)
    assert is_local(str(tmp_path))
    config.write_text(json.dumps({"model_type": "xgenmm", "vision_encoder_config": {}}))
    assert resolve_model(tmp_path, ours=False) == str(tmp_path)
    with pytest.raises(ValueError, match="xgenmm convert"):
        resolve_model(tmp_path)
    config.write_text("{}")
    with pytest.raises(ValueError, match="model_type None"):
        resolve_model(tmp_path)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not valid JSON"):
        resolve_model(tmp_path)


def test_an_existing_folder_wins_over_a_repository_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organisation" / "name").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve_model("organisation/name")
