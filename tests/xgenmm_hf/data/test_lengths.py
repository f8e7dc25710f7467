"""Lengths of rows against the batches that the collators make of them."""

import copy

import pytest
from conversation_rows import conversations, image, small_processor
from hypothesis import HealthCheck, given, settings

from xgenmm_hf.data.lengths import RowLength, add_lengths, describe_processor, measure_rows
from xgenmm_hf.training.collators import PretrainingCollator, SupervisedCollator


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conversations())
def test_a_row_is_as_long_as_its_batch(row):
    length = measure_row(row, small_processor())
    batch = SupervisedCollator(small_processor())([row])
    num_image = int((batch["input_ids"] == small_processor().image_token_id).sum())
    assert length.num_image_tokens == num_image and length.num_tokens == batch["input_ids"].shape[1]
    assert length.num_tiles == (batch["image_num_tiles"].sum() if row["images"] else 0)
    assert length.modality == ("text", "image", "images")[min(len(row["images"]), 2)]


def caption_row(*images) -> dict:
    content = [part for _ in images for part in ({"type": "image"}, {"type": "text", "text": "a red square"})]
    return {"id": "1", "source": "captions", "images": list(images), "content": content or [{"type": "end_of_chunk"}]}


def measure_row(row, processor, mode=None):
    return measure_rows([row], processor, mode)[0]


@pytest.mark.parametrize("mode", ["none", "anyres"])
def test_documents_and_one_tile_images(mode):
    row = caption_row(image(0), image(2))
    batch = PretrainingCollator(small_processor(), image_aspect_ratio=mode)([row])
    length = measure_row(row, small_processor(), mode)
    assert length.num_tokens == batch["input_ids"].shape[1] and length.modality == "images"
    assert length.num_tiles == batch["image_num_tiles"].sum() == {"none": 2, "anyres": 8}[mode]


def test_the_longer_answer_of_a_preference_row_counts():
    def answer(text):
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]}]
    row = {"id": "1", "source": "pairs", "images": [image(0)], "prompt": prompt}
    row |= {"chosen": answer("a"), "rejected": answer("a red square in the image")}
    longer = {**row, "messages": prompt + row["rejected"]}
    del longer["prompt"], longer["chosen"], longer["rejected"]
    assert measure_row(row, small_processor()) == measure_row(longer, small_processor())


def test_an_image_that_cannot_be_read_counts_as_a_tile():
    row = caption_row({"bytes": b"no image", "path": None})
    length = measure_row(row, small_processor(), "none")
    assert (length.num_tiles, length.modality) == (1, "image")


def test_no_pixel_is_decoded(tmp_path):
    path = tmp_path / "cut.png"
    image(2).resize((640, 320)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert measure_row(caption_row({"bytes": None, "path": str(path)}), small_processor()).num_tiles == 3


def test_columns_are_added_and_cached(tmp_path):
    from datasets import Dataset, load_from_disk

    for index in range(3):
        image(index).save(tmp_path / f"{index}.png")
    references = [{"bytes": None, "path": str(tmp_path / f"{index}.png")} for index in range(3)]
    rows = [caption_row(), caption_row(references[0]), caption_row(references[1], references[2])]
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    stored = load_from_disk(tmp_path / "rows")
    measured = add_lengths(stored, small_processor())
    assert measured["modality"][:] == ["text", "image", "images"] and measured["num_tiles"][:] == [0, 3, 8]
    assert measured["num_tokens"][:] == [measure_row(row, small_processor()).num_tokens for row in rows]
    assert measured["images"][:] == stored["images"][:]
    small_processor()(text=["a", "b c d"], padding=True, truncation=True, max_length=9)
    before = sorted(file.name for file in (tmp_path / "rows").iterdir())
    again = add_lengths(load_from_disk(tmp_path / "rows"), small_processor())
    assert sorted(file.name for file in (tmp_path / "rows").iterdir()) == before
    assert again["num_tokens"][:] == measured["num_tokens"][:]
    assert add_lengths(measured, small_processor(), image_aspect_ratio="none")["num_tiles"][:] == [0, 1, 2]


def test_collators_take_the_tokens_of_measured_rows(tmp_path, monkeypatch):
    from datasets import Dataset

    image(0).save(tmp_path / "0.png")
    reference = {"bytes": None, "path": str(tmp_path / "0.png")}
    question = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a red square"}]}
    chat = {"id": "1", "source": "chats", "images": [reference], "messages": [question, answer]}
    for kind, row in ((SupervisedCollator, chat), (PretrainingCollator, caption_row(reference, reference))):
        collator = kind(small_processor())
        fresh = collator([row])
        measured = add_lengths(Dataset.from_list([row]), small_processor())[0]
        monkeypatch.setattr(collator, "render", lambda row: pytest.fail("encoded again"))
        kept = collator([measured])
        assert fresh.keys() == kept.keys() and fresh["row_ids"] == kept["row_ids"]
        assert all(fresh[name].tolist() == kept[name].tolist() for name in ("input_ids", "labels", "pixel_values"))


def test_tokens_of_other_texts_templates_and_kinds_are_not_taken():
    from datasets import Dataset

    processor = copy.deepcopy(small_processor())
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a red square"}]},
    ]
    row = {"id": "1", "source": "chats", "images": [], "messages": messages}
    measured = add_lengths(Dataset.from_list([row]), processor)[0]
    changed = copy.deepcopy(measured)
    changed["messages"][1]["content"][0]["text"] = "a circle"
    told = SupervisedCollator(processor)([changed])["labels"]
    assert "circle" in processor.decode(told[told >= 0])
    with pytest.raises(ValueError, match="holds no `content`"):
        PretrainingCollator(processor)([measured])
    before = SupervisedCollator(processor)([measured])["input_ids"].shape[1]
    processor.chat_template = processor.chat_template.replace("<|user|>", "<|user|><|user|>")
    assert SupervisedCollator(processor)([measured])["input_ids"].shape[1] == before + 1


def test_the_description_names_what_decides_lengths():
    described = describe_processor(small_processor())
    small_processor()(text=["a", "b c d"], padding=True, truncation=True, max_length=3)
    assert describe_processor(small_processor()) == described
    assert describe_processor(small_processor(), "none") != described
    assert RowLength(3, 4, 1, "image").num_tokens == 7
