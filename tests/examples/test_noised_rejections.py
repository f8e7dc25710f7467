"""Noised images follow the diffusion formula; a model's answers to them become second rejected answers."""

import runpy
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from PIL import Image
from preference_parts import png, turn

from xgenmm_hf import TINY_MODEL, PreferenceCollator, load


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "noised_rejections.py"
OPTIONS = Namespace(step=900, schedule="sigmoid", batch_size=2, max_new_tokens=5, seed=0)
made = runpy.run_path(str(SCRIPT))


def make_rows() -> list[dict]:
    images = [
        [png(90, 60, "red")],
        [png(40, 60, "blue"), png(90, 60, "green")],
        [],
        [{"bytes": b"broken", "path": "x.png"}],
    ]
    return [
        {
            "id": str(index),
            "source": "pairs",
            "images": images,
            "prompt": [turn("user", *[None] * len(images), "What color is it?")],
            "chosen": [turn("assistant", "red")],
            "rejected": [turn("assistant", "a lie")],
        }
        for index, images in enumerate(images)
    ]


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, dtype="float32", device="cpu")


@pytest.fixture
def answers(monkeypatch):
    """Replaces the model's answers by given ones, by the number of their row."""

    def set_answers(*texts: str) -> None:
        names = made["rejections"].__globals__
        monkeypatch.setitem(names, "answer_noised", lambda loaded, batches, options: [texts[n] for n in batches])

    return set_answers


def test_the_schedules_are_the_published_ones():
    sigmoid, linear = made["signal_left"]("sigmoid"), made["signal_left"]("linear")
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    assert np.allclose(sigmoid, np.cumprod(1 - betas), atol=1e-6)
    assert np.allclose(linear, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), atol=1e-6)
    assert np.isclose(linear[-1], 4.0e-5, rtol=0.05)  # hardly anything of the image is left


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_noised_pixels_have_the_mean_and_the_variance_of_the_formula(schedule):
    pixels = torch.full((3, 200, 200), 0.5)
    noised = made["noise_tiles"](pixels, 400, schedule, 0)
    left = made["signal_left"](schedule)[400]
    assert torch.isclose(noised.mean(), 0.5 * left.sqrt(), atol=0.01)
    assert torch.isclose(noised.var(), 1 - left, atol=0.01)
    assert torch.equal(pixels, torch.full((3, 200, 200), 0.5))
    assert torch.equal(noised, made["noise_tiles"](pixels, 400, schedule, 0))
    assert not torch.equal(noised, made["noise_tiles"](pixels, 400, schedule, 1))
    assert made["noise_tiles"](pixels.bfloat16(), 0, schedule, 0).dtype == torch.bfloat16


@pytest.mark.parametrize("step", [-1, 1000])
def test_a_step_out_of_range_is_named(step):
    with pytest.raises(ValueError, match=f"step is {step}"):
        made["noise_tiles"](torch.zeros(1), step, "sigmoid", 0)


def test_answers_do_not_depend_on_the_batch(loaded):
    collator = PreferenceCollator(loaded.processor)
    batches = {number: collator([row]) for number, row in enumerate(make_rows()[:2])}
    together = made["answer_noised"](loaded, batches, OPTIONS)
    assert together == [made["answer_noised"](loaded, {n: batch}, OPTIONS)[0] for n, batch in batches.items()]
    assert all(together)


def test_added_rows_reject_what_the_model_says(loaded, answers):
    answers("  <|end|> a bird", "red")
    counts = Counter()
    rows = list(made["rejections"](loaded, Dataset.from_list(make_rows()), OPTIONS, counts))
    assert counts == {"added": 1, "same answer": 1, "no image": 1, "unreadable": 1}
    assert rows == [{**make_rows()[0], "id": "0-noised", "rejected": [turn("assistant", "  <|end|> a bird")]}]
    assert PreferenceCollator(loaded.processor)(rows)["row_ids"] == ["pairs/0-noised"]


def test_plain_rows_keep_their_form(loaded, answers):
    answers("a bird")
    plain = {
        "images": [Image.new("RGB", (40, 40))],
        "prompt": [{"role": "user", "content": "What is it?"}],
        "chosen": [{"role": "assistant", "content": "a cat"}],
        "rejected": [{"role": "assistant", "content": "a dog"}],
    }
    (row,) = made["rejections"](loaded, Dataset.from_list([plain]), OPTIONS, Counter())
    assert row["rejected"] == [{"role": "assistant", "content": "a bird"}]


def test_a_prompt_that_fills_the_context_is_passed_over(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.config.text_config, "max_position_embeddings", 20)
    counts = Counter()
    assert not list(made["rejections"](loaded, Dataset.from_list(make_rows()[:1]), OPTIONS, counts))
    assert counts == {"too long": 1}


def test_the_script_writes_a_folder_once(tmp_path, monkeypatch, capsys):
    Dataset.from_list(make_rows()[:2]).save_to_disk(str(tmp_path / "rows"))
    given = ["--data", str(tmp_path / "rows"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given, "--max-new-tokens", "4"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    whole = load_from_disk(str(tmp_path / "out"))
    assert whole[:2] == load_from_disk(str(tmp_path / "rows"))[:]
    assert {row["id"] for row in whole} <= {"0", "1", "0-noised", "1-noised"} and len(whole) > 2
    assert f"{len(whole)} rows are in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "exists already" in capsys.readouterr().err
