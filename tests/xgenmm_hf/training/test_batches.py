"""Reading images, padding, and what becomes of rows whose images cannot be read."""

import io

import numpy as np
import pytest
import torch
from conversation_rows import IGNORE, image, small_processor
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.data.encoding import EncodedRow
from xgenmm_hf.training.collators import PretrainingCollator, SupervisedCollator, read_images


def encoded_png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def caption_row(name: str, *images) -> dict:
    content = [{"type": "image", "text": None} for _ in images] + [{"type": "text", "text": "a red square"}]
    return {"id": name, "source": "captions", "images": list(images), "content": content}


@pytest.fixture
def bad(tmp_path) -> dict:
    (tmp_path / "cut.png").write_bytes(encoded_png(Image.effect_noise((64, 64), 90))[:900])
    return {"bytes": None, "path": str(tmp_path / "cut.png")}


def test_images_are_opened_in_rgb_and_the_rows_left_alone(tmp_path):
    image(1).convert("L").save(tmp_path / "grey.png")
    references = [
        {"bytes": encoded_png(image(0)), "path": None},
        {"bytes": None, "path": str(tmp_path / "grey.png")},
        image(2).convert("RGBA"),
    ]
    rows = [caption_row("1", *references), {"id": "2", "source": "texts"}]
    readable, unreadable = read_images(rows)
    assert unreadable == []
    assert [image.mode for image in readable[0]["images"]] == ["RGB"] * 3
    assert [image.size for image in readable[0]["images"]] == [image(index).size for index in range(3)]
    assert readable[1]["images"] == [] and rows[0]["images"] == references and "images" not in rows[1]


def test_rows_with_unreadable_images_are_left_out_and_named(bad):
    missing = {"bytes": None, "path": bad["path"] + ".jpg"}
    rows = [
        caption_row("1", image(0)),
        caption_row("2", image(0), bad),
        caption_row("3", missing),
        caption_row("4", Image.new("RGB", (0, 5))),
    ]
    readable, unreadable = read_images(rows)
    assert [row["id"] for row in readable] == ["1"]
    assert "cut.png" in unreadable[0] and "0 x 5 pixels" in unreadable[2]
    batch = PretrainingCollator(small_processor())(rows)
    assert batch["row_ids"] == ["captions/1"] and len(batch["input_ids"]) == 1
    assert batch["image_num_tiles"].tolist() == [1]
    assert [sentence.split(":")[0] for sentence in batch["unreadable"]] == [
        f"Row captions/{name} is dropped" for name in "234"
    ]
    assert unreadable == batch["unreadable"]


@pytest.mark.parametrize("multiple", [None, 8])
def test_a_batch_without_a_row_is_padding_without_a_target(bad, multiple):
    batch = SupervisedCollator(small_processor(), pad_to_multiple_of=multiple)([caption_row("2", bad)])
    assert batch["row_ids"] == [] and len(batch["unreadable"]) == 1
    assert set(batch) == {"input_ids", "attention_mask", "labels", "row_ids", "unreadable"}
    assert batch["input_ids"].shape == (1, multiple or 2)
    assert (batch["input_ids"] == small_processor().tokenizer.pad_token_id).all()
    assert (batch["labels"] == IGNORE).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_runs_on_a_batch_without_a_row(attention):
    model = XGenMMForConditionalGeneration.from_pretrained(
        TINY_MODEL, dtype=torch.float32, attn_implementation=attention
    )
    collator = SupervisedCollator(XGenMMProcessor.from_pretrained(TINY_MODEL))
    batch = collator.pad([collator.nothing()])
    labels = batch.pop("labels")
    logits = model(**batch).logits
    assert logits.isfinite().all() and logits.shape[:2] == labels.shape
    logits.sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


def row_of(ids: list[int], labels: list[int]) -> EncodedRow:
    return EncodedRow(np.array(ids), np.array(labels), [], np.zeros(len(ids), dtype=bool))


def test_rows_are_padded_on_the_right():
    collator = SupervisedCollator(small_processor(), pad_to_multiple_of=4)
    batch = collator.pad([row_of([5, 6, 7], [IGNORE, 6, 7]), row_of([8], [8])])
    filler = small_processor().tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7, filler], [8, filler, filler, filler]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7, IGNORE], [8, IGNORE, IGNORE, IGNORE]]
    lengths = [collator.pad([row_of([1] * n, [1] * n)])["labels"].shape[1] for n in (1, 4, 5)]
    assert lengths == [4, 4, 8]
