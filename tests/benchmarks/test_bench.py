"""The benchmark runs every part on the embedded model's shape; what it counts is held against formulas by hand."""

import itertools
import json

import bench
import forked
import measuring
import pytest
import torch
from parts import PARTS


def test_every_part_gives_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(measuring.SIDES, "cpu", (256,))
    monkeypatch.setitem(measuring.COPIED, "cpu", 2**22)
    monkeypatch.setattr("parts.subprocess.run", lambda command, **_: forked.run(command[1:]))
    file = tmp_path / "figures.json"
    bench.main(["--preset", "tiny", "--rounds", "1", "--json", str(file)])
    record = json.loads(file.read_text())
    by_part = {}
    for row in record["rows"]:
        assert row["seconds"] > 0 and row["rate"] > 0
        by_part.setdefault(row["part"], {})[row["case"]] = row
    assert len(by_part) == len(PARTS)
    for rows in by_part.values():
        for row in rows.values():
            if row["baseline"] is not None:
                assert row["ratio"] == pytest.approx(row["rate"] / rows[row["baseline"]]["rate"])
    for part in ("tower", "resampler", "prefill", "decode", "SFT step"):
        assert all(row["share"] > 0 for row in by_part[part].values())
    assert "of limit" in capsys.readouterr().out


def test_operations_are_those_of_the_formula():
    linear = torch.nn.Linear(8, 4)
    query = torch.randn(1, 2, 16, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert measuring.count_flops(lambda: linear(torch.ones(3, 8))) == 2 * 3 * 8 * 4
    assert measuring.count_flops(lambda: attention(query, query, query)) == 2 * (2 * 2 * 16 * 16 * 8)


def test_the_share_is_that_of_the_nearer_limit():
    limits = measuring.Limits(flops=100.0, bandwidth=10.0)
    one = measuring.Candidate(lambda: None, 1, flops=50.0, moved=20.0)
    assert limits.share(one, 4.0) == 0.5
    assert limits.share(measuring.Candidate(lambda: None, 1), 4.0) is None


def test_candidates_take_turns():
    order = []
    measuring.time_in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b", "a"] and order.count("a") == order.count("b")
