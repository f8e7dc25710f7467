"""Preference pairs become the ids of TRL's own collator, with every image once."""

import copy
import io

import pytest
import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMProcessor
from xgenmm_hf.training.collators import PreferenceCollator


def image(width: int = 80, height: int = 60, color: str = "red") -> Image.Image:
    return Image.new("RGB", (width, height), color)


def reference(image: Image.Image) -> dict:
    data = io.BytesIO()
    image.save(data, "png")
    return {"bytes": data.getvalue(), "path": None}


def turn(role: str, *parts: str | None) -> dict:
    """A message of parts; None stands for an image."""
    items = [{"type": "image" if part is None else "text", "text": part} for part in parts]
    return {"role": role, "content": items}


def pair(name: str, prompt: list, chosen: str, rejected: str, images: list) -> dict:
    answers = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
    return {"id": name, "source": "pairs", "images": images, "prompt": prompt, **answers}


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def rows() -> list[dict]:
    dialogue = [turn("system", "Be brief."), turn("user", None, "and", None, "Same?"), turn("assistant", "yes")]
    return [
        pair("a", [turn("user", None, "What is this?")], "a red disc", " a blue square and a star", [image()]),
        pair("b", [*dialogue, turn("user", "Sure?")], "yes <|end|><image>", "no", [image(40, 90), image(30, 30)]),
        pair("c", [turn("user", "two <image>\nwords <|assistant|>")], "", "no image", []),
    ]


@pytest.fixture
def plain_rows() -> list[dict]:
    """TRL's own form: strings as contents, images in a column."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What is this, {index}?"}],
            "chosen": [{"role": "assistant", "content": "a red disc"}],
            "rejected": [{"role": "assistant", "content": "nothing"}],
            "images": [image(80 + 60 * index)],
        }
        for index in range(2)
    ]


def stock_batch(processor, rows: list[dict], **options) -> dict:
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    return DataCollatorForVisionPreference(processor, **options)(copy.deepcopy(rows))


@pytest.mark.parametrize("form", ["rows", "plain_rows"])
@pytest.mark.parametrize("max_length", [None, 300])
def test_the_ids_are_those_of_trl_and_images_stand_once(processor, request, form, max_length):
    rows = request.getfixturevalue(form)
    expected = stock_batch(processor, rows, max_length=max_length)
    batch = PreferenceCollator(processor, max_length=max_length)(rows)
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(batch[name], expected[name]), name
    num_images = len(batch["image_num_tiles"])
    assert num_images == sum(len(row["images"]) for row in rows)
    assert torch.equal(expected["image_num_tiles"], batch["image_num_tiles"].repeat(2))
    assert torch.equal(expected["image_sizes"], batch["image_sizes"].repeat(2, 1))
    assert torch.equal(expected["pixel_values"], batch["pixel_values"].repeat(2, 1, 1, 1))
    assert batch["image_repeats"] == 2 and batch["unreadable"] == []


def test_the_answers_are_cut_as_trl_cuts_them(processor, rows):
    whole = PreferenceCollator(processor)(rows[:1])
    length = whole["input_ids"].shape[1] - 3
    batch = PreferenceCollator(processor, max_length=length)(rows[:1])
    assert torch.equal(batch["input_ids"], stock_batch(processor, rows[:1], max_length=length)["input_ids"])
    assert 0 < batch["completion_mask"][1].sum() < whole["completion_mask"][1].sum()


def test_references_give_the_batch_that_images_give_and_rows_stay_as_they_are(processor, rows):
    expected = PreferenceCollator(processor)(rows)
    stored = [{**row, "images": [reference(image) for image in row["images"]]} for row in rows]
    before = copy.deepcopy(stored)
    batch = PreferenceCollator(processor)(stored)
    assert stored == before
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["row_ids"] == ["pairs/a", "pairs/b", "pairs/c"]


def test_an_answer_has_the_ids_of_the_whole_chat(processor, rows):
    batch = PreferenceCollator(processor)(rows)
    for index, (row, side) in enumerate((row, side) for side in ("chosen", "rejected") for row in rows):
        text = processor.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
        ids = processor(text=text, images=row["images"] or None)["input_ids"][0]
        length = int(batch["attention_mask"][index].sum())
        assert batch["input_ids"][index, :length].tolist() == ids
        answer = batch["input_ids"][index][batch["completion_mask"][index].bool()].tolist()
        assert answer == ids[len(ids) - len(answer) :]


def test_a_pair_with_an_unreadable_image_is_left_out_but_keeps_its_place(processor, rows):
    broken = {**rows[0], "images": [{"bytes": b"no image", "path": "x.png"}]}
    batch = PreferenceCollator(processor)([broken, rows[1]])
    alone = PreferenceCollator(processor)(rows[1:2])
    assert batch["row_ids"] == ["pairs/b"] and "x.png" in batch["unreadable"][0]
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])
    assert batch["input_ids"].shape[0] == 4
    assert torch.equal(batch["input_ids"][[1, 3]], alone["input_ids"])
    assert batch["completion_mask"][[0, 2]].sum() == 0 and (batch["attention_mask"].sum(1) > 0).all()


def test_a_batch_of_unreadable_pairs_has_no_images(processor, rows):
    batch = PreferenceCollator(processor)([{**rows[0], "images": [{"bytes": None, "path": "/nowhere/x.png"}]}])
    assert "pixel_values" not in batch and "image_repeats" not in batch
    assert batch["input_ids"].shape[0] == 2 and batch["row_ids"] == [] and len(batch["unreadable"]) == 1


def test_a_prompt_without_room_for_an_answer_is_left_out(processor, rows):
    collate = PreferenceCollator(processor, max_length=80)
    batch = collate([rows[0], rows[2]])
    assert batch["row_ids"] == ["pairs/c"] and "max_length is 80" in batch["unreadable"][0]
    assert "pixel_values" not in batch


def test_pairs_are_padded_to_a_multiple(processor, rows):
    batch = PreferenceCollator(processor, pad_to_multiple_of=64)(rows)
    assert batch["input_ids"].shape[1] % 64 == 0


def test_faulty_rows_and_options_are_named(processor, rows):
    collate = PreferenceCollator(processor)
    with pytest.raises(ValueError, match="pairs/a: `rejected` is 'text'"):
        collate([{**rows[0], "rejected": "text"}])
    with pytest.raises(ValueError, match="pairs/a cannot be read: Number of images"):
        collate([{**rows[0], "images": []}])
    with pytest.raises(ValueError, match="max_length is 0"):
        PreferenceCollator(processor, max_length=0)
