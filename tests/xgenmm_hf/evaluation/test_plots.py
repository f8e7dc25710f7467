"""Plots are PNG files that show what they are given."""

import builtins

import pytest
from PIL import Image
from results_of import make_result

from xgenmm_hf.evaluation.plots import label_of, plot_categories, plot_shots


def is_png(file) -> bool:
    with Image.open(file) as image:
        return image.format == "PNG" and len(image.convert("L").getcolors(1 << 16)) > 2


def test_shots(tmp_path):
    results = [make_result([1.0, share], shots=shots) for shots, share in ((0, 0.0), (4, 0.5), (8, 1.0))]
    plot_shots(results, tmp_path / "new" / "shots.png")
    assert is_png(tmp_path / "new" / "shots.png")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["shots.png"]
    assert label_of(results[1], results) == "tiny, 4 shots"


def test_categories(tmp_path):
    results = [make_result([1.0, 0.0, 0.5], categories=("a", "b", "c"), model=f"m{number}") for number in range(2)]
    assert plot_categories(results, tmp_path / "bars.png")
    assert is_png(tmp_path / "bars.png")
    assert not plot_categories([make_result([1.0])], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_results_without_a_common_measure(tmp_path):
    one, other = make_result([1.0]), make_result([1.0])
    other["scores"] = {"cider": 1.0}
    with pytest.raises(ValueError, match="no measure in common"):
        plot_shots([one, other], tmp_path / "a.png")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"xgenmm-hf\[eval\]"):
        plot_shots([make_result([1.0])], tmp_path / "a.png")
