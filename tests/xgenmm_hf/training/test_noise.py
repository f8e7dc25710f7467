"""Noised images follow the diffusion formula; a model's answers to them become second rejected answers."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.cli import noise
from xgenmm_hf.training.noise import Answerer, add_noised_rejections, noise_image, signal_left, text_of
from xgenmm_hf.training.preference import PreferenceCollator


def png(color: str, width: int = 90, height: int = 60) -> dict:
    data = io.BytesIO()
    Image.new("RGB", (width, height), color).save(data, "png")
    return {"bytes": data.getvalue(), "path": None}


def turn(role: str, *parts: str | None) -> dict:
    items = [{"type": "image" if part is None else "text", "text": part} for part in parts]
    return {"role": role, "content": items}


def make_rows() -> list[dict]:
    images = [[png("red")], [png("blue", 40), png("green")], [], [{"bytes": b"broken", "path": "x.png"}]]
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
def model():
    return XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def answers(monkeypatch):
    """Replaces the model's answers by given ones, and counts the calls."""
    calls = []

    def set_answers(*texts: str) -> list:
        def answer(self, rows, indices):
            calls.append(list(indices))
            return [texts[index] for index in indices]

        monkeypatch.setattr(Answerer, "answer", answer)
        return calls

    return set_answers


def test_the_schedules_are_the_published_ones():
    sigmoid, linear = signal_left(), signal_left(schedule="linear")
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    assert np.allclose(sigmoid, np.cumprod(1 - betas), atol=1e-6)
    assert np.allclose(linear, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), atol=1e-6)
    assert np.isclose(linear[-1], 4.0e-5, rtol=0.05)  # hardly anything of the image is left
    assert torch.isclose(signal_left(100, "linear")[-1], linear[-1], atol=2e-5)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_noised_pixels_have_the_mean_and_the_variance_of_the_formula(schedule):
    pixels = torch.full((3, 200, 200), 0.5)
    noised = noise_image(pixels, 400, schedule=schedule, generator=torch.Generator().manual_seed(0))
    left = signal_left(schedule=schedule)[400]
    assert torch.isclose(noised.mean(), 0.5 * left.sqrt(), atol=0.01)
    assert torch.isclose(noised.var(), 1 - left, atol=0.01)
    assert torch.equal(pixels, torch.full((3, 200, 200), 0.5))


def test_a_image_stays_a_image_and_its_noise_follows_the_seed():
    image = Image.effect_noise((30, 20), 40).convert("RGB")
    first, again, other = (noise_image(image, 500, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.size == image.size and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()
    barely = np.abs(np.asarray(noise_image(image, 0), int) - np.asarray(image, int))
    assert barely.max() <= 4 < np.abs(np.asarray(first, int) - np.asarray(image, int)).max()


def test_pixel_values_keep_their_dtype():
    assert noise_image(torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1000,), "step is 1000"),
        ((-1,), "step is -1"),
        ((0, 5, "linear"), "num_steps is 5"),
        ((0, 10, "cosine"), "'cosine'"),
    ],
)
def test_options_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise_image(torch.zeros(1), *arguments)


def test_answers_do_not_depend_on_the_batch_and_the_model_stays_as_it_was(model, processor):
    dataset = Dataset.from_list(make_rows()[:2])
    model.train()
    together = add_noised_rejections(dataset, model, processor, batch_size=2, max_new_tokens=5, step=900)
    alone = add_noised_rejections(dataset, model, processor, batch_size=1, max_new_tokens=5, step=900)
    assert model.training
    model.eval()
    assert together.counts == alone.counts and sum(together.counts.values()) == 2
    assert together.rows[:] == alone.rows[:]
    noised = [Answerer(model, processor, {"step": 900}, 5, seed) for seed in (0, 1)]
    inputs = {"pixel_values": torch.zeros(3, 3, 4, 4), "image_num_tiles": torch.tensor([1, 2])}
    tiles = [one._noised(dict(inputs), ["0/0", "1/0"])["pixel_values"] for one in noised]
    assert not torch.equal(*tiles) and not torch.equal(tiles[0][0], tiles[0][1])


def test_added_rows_reject_what_the_model_says(model, processor, answers):
    answers("  <|end|> a bird", "red", "never", "asked")
    dataset = Dataset.from_list(make_rows())
    rows, counts = add_noised_rejections(dataset, model, processor)
    expected = {"added": 1, "same_answer": 1, "no_image": 1, "unreadable": 1, "empty": 0, "too_long": 0}
    assert counts == expected
    assert rows.features == dataset.features and len(rows) == 5
    assert rows[:4] == dataset[:]
    assert rows[4] == {**rows[0], "id": "0-noised", "rejected": [turn("assistant", "  <|end|> a bird")]}
    assert PreferenceCollator(processor)([rows[4]])["row_ids"] == ["pairs/0-noised"]


def test_plain_rows_keep_their_form(model, processor, answers):
    answers("a bird")
    plain = {
        "images": [Image.new("RGB", (40, 40))],
        "prompt": [{"role": "user", "content": "What is it?"}],
        "chosen": [{"role": "assistant", "content": "a cat"}],
        "rejected": [{"role": "assistant", "content": "a dog"}],
    }
    rows, counts = add_noised_rejections(Dataset.from_list([plain]), model, processor)
    assert counts["added"] == 1 and rows[1]["rejected"] == [{"role": "assistant", "content": "a bird"}]


def test_answers_are_cached_by_data_model_and_arguments(model, processor, answers, tmp_path):
    Dataset.from_list(make_rows()[:2]).save_to_disk(str(tmp_path / "rows"))
    calls = answers("a bird", "a fish")
    for seed in (0, 0, 1):
        add_noised_rejections(load_from_disk(str(tmp_path / "rows")), model, processor, seed=seed)
    assert calls == [[0, 1], [0, 1]]


def test_a_prompt_that_fills_the_context_is_passed_over(model, processor, answers, monkeypatch):
    answers("a bird")
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 20)
    _, counts = add_noised_rejections(Dataset.from_list(make_rows()[:1]), model, processor)
    assert counts["too_long"] == 1


def test_the_script_writes_a_folder(answers, tmp_path):
    import typer

    answers("a bird", "a fish")
    app = typer.Typer()
    app.command()(noise.main)
    Dataset.from_list(make_rows()[:2]).save_to_disk(str(tmp_path / "rows"))
    arguments = [TINY_MODEL, str(tmp_path / "rows"), str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "added        2" in result.output
    added = load_from_disk(str(tmp_path / "out"))
    assert [text_of(row["rejected"]) for row in added] == ["a lie", "a lie", "a bird", "a fish"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows"]
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, FileExistsError) and "not empty" in str(again.exception)
