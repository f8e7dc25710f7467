"""``xgenmm generate`` as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.app import app
from xgenmm_hf.cli.generate import parse_shard


def test_images_of_a_folder(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40), name == "a" and "red" or "blue").save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_bytes(b"")
    options = [
        "--prompt",
        "Which colour?",
        "-o",
        str(tmp_path / "out.jsonl"),
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, ["generate", str(tmp_path / "images"), *options])
    assert result.exit_code == 0, result.stderr
    assert "3 rows, 0 of them by an earlier run, 1 new errors" in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == ["a.png", "b.png", "c.png"]
    assert rows[0]["text"] and "error" in rows[2]
    again = CliRunner().invoke(app, ["generate", str(tmp_path / "images"), *options])
    assert again.exit_code == 1 and again.stderr.count("error:") == 1 and "is there already" in again.stderr


def test_shares(monkeypatch):
    assert parse_shard("3/8") == (2, 8)
    assert parse_shard(None) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse_shard(None) == (1, 4)
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="write for example 3/8"):
            parse_shard(wrong)


def test_nothing_there():
    result = CliRunner().invoke(app, ["generate", "nowhere", "-p", "x", "-o", "out.jsonl", "--model", TINY_MODEL])
    assert result.exit_code == 1 and "nothing at nowhere" in result.stderr
