"""The collators' ids and targets against the processor, a slow encoder of their own, and TRL's collator."""

import copy

import pytest
import torch
import transformers
from conversation_rows import (
    IGNORE,
    SlowEncoder,
    conversations,
    ids_and_labels,
    image,
    small_processor,
    texts,
    with_images,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.training.collators import PretrainingCollator, SupervisedCollator


TRL_MASKS_ANSWERS = Version(transformers.__version__) >= Version("5.18.0")
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def unpadded(batch: dict, index: int = 0) -> tuple[list[int], list[int]]:
    seen = batch["attention_mask"][index].bool()
    assert (batch["labels"][index][~seen] == IGNORE).all()
    return batch["input_ids"][index][seen].tolist(), batch["labels"][index][seen].tolist()


def assert_images_fit(batch: dict, processor: XGenMMProcessor) -> None:
    tiles = batch["pixel_values"].shape[0] if "pixel_values" in batch else 0
    is_image = batch["input_ids"] == processor.image_token_id
    assert is_image.sum() == tiles * processor.num_latents
    assert (batch["labels"][is_image] == IGNORE).all()
    if tiles:
        assert batch["image_num_tiles"].sum() == tiles and len(batch["image_sizes"]) == len(batch["image_num_tiles"])


@QUICK
@given(conversations())
def test_ids_are_the_processors_and_targets_the_slow_encoders(row):
    processor = small_processor()
    batch = SupervisedCollator(processor)([row])
    ids, labels = unpadded(batch)
    expected = processor.apply_chat_template(with_images(row), tokenize=True, return_dict=True)
    assert ids == expected["input_ids"][0]
    assert (ids, labels) == ids_and_labels(SlowEncoder(row).tokens)
    assert_images_fit(batch, processor)
    if row["images"]:
        assert torch.equal(batch["pixel_values"], torch.as_tensor(expected["pixel_values"]))


@QUICK
@given(st.lists(conversations(), min_size=1, max_size=3), st.integers(1, 170))
def test_cut_rows_keep_whole_images_and_the_targets_before_the_cut(rows, max_length):
    processor = small_processor()
    batch = SupervisedCollator(processor, max_length=max_length)(rows)
    assert_images_fit(batch, processor)
    tiles = []
    for index, row in enumerate(rows):
        tokens = SlowEncoder(row).cut(max_length)
        assert unpadded(batch, index) == ids_and_labels(tokens)
        shown = {number for _, _, number in tokens} - {None}
        sizes = [processor.image_processor([row["images"][number]])["image_num_tiles"].item() for number in shown]
        tiles += sizes
    assert batch.get("image_num_tiles", torch.zeros(0)).tolist() == tiles
    assert batch["input_ids"].shape[1] <= max_length


@QUICK
@given(conversations(in_answers=False))
def test_targets_decode_to_the_answers_and_their_ends(row):
    processor = small_processor()
    _, labels = unpadded(SupervisedCollator(processor)([row]))
    end = processor.tokenizer.convert_tokens_to_ids("<|end|>")
    answers, turn = [], []
    for label in labels:
        if label == end:
            answers.append(processor.tokenizer.decode(turn) if turn else "")
            turn = []
        elif label != IGNORE:
            turn.append(label)
    assert not turn, "an answer without its end"
    assert answers == SlowEncoder(row).answers


@pytest.mark.skipif(not TRL_MASKS_ANSWERS, reason="TRL masks answers beside images from Transformers 5.18 on")
@settings(QUICK, max_examples=40)
@given(st.lists(conversations(), min_size=1, max_size=3), st.sampled_from([None, 16]))
def test_trl_gives_the_same_batch(rows, multiple):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = small_processor()
    ours = SupervisedCollator(processor, pad_to_multiple_of=multiple)(rows)
    trl = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True, pad_to_multiple_of=multiple)
    theirs = trl(copy.deepcopy(rows))
    # The processor's return holds `image_num_tiles` under its key alone: TRL's collator does not pass it on.
    counts = {"image_num_tiles"} if "pixel_values" in theirs else set()
    assert set(ours) - set(theirs) == {"row_ids", "unreadable"} | counts and set(theirs) <= set(ours)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.skipif(not TRL_MASKS_ANSWERS, reason="TRL masks answers beside images from Transformers 5.18 on")
def test_trl_gives_the_same_batch_on_the_embedded_model_when_text_is_cut():
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    rows = [chat_row("How many circles are there?", "There are two red circles.", images=1)]
    whole = SupervisedCollator(processor)(rows)
    length = whole["input_ids"].shape[1] - 4
    theirs = DataCollatorForVisionLanguageModeling(processor, length, assistant_only_loss=True)(copy.deepcopy(rows))
    ours = SupervisedCollator(processor, max_length=length)(rows)
    assert torch.equal(ours["labels"], theirs["labels"]) and (ours["labels"] >= 0).sum() > 3
    assert has_generation_markers(processor.chat_template) and is_chat_template_stop_token_trained(processor)


@pytest.mark.skipif(not TRL_MASKS_ANSWERS, reason="TRL masks answers beside images from Transformers 5.18 on")
def test_trls_trainer_trains_on_the_same_targets(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    rows = [chat_row("How many circles?", "There are two.", images=2), chat_row("Any text?", "None.", images=1)]
    trainer = SFTTrainer(
        XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32),
        args=SFTConfig(
            str(tmp_path),
            assistant_only_loss=True,
            per_device_train_batch_size=2,
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    (theirs,) = trainer.get_train_dataloader()
    ours = SupervisedCollator(processor)(rows)
    assert sorted(ours["labels"].tolist()) == sorted(theirs["labels"].tolist())
    answers = [processor.tokenizer.decode(row[row != IGNORE]) for row in ours["labels"]]
    assert [answer.replace(" ", "") for answer in answers] == ["Therearetwo.<|end|>", "None.<|end|>"]


def chat_row(question: str, answer: str, images: int = 0, **fields) -> dict:
    parts = [{"type": "image", "text": None}] * images + [{"type": "text", "text": question}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    shown = [image(index) for index in range(images)]
    return {"id": "7", "source": "test", "messages": messages, "images": shown, **fields}


def test_a_batch_of_texts_has_no_images_and_names_its_rows():
    batch = SupervisedCollator(small_processor(), pad_to_multiple_of=8)([chat_row("a", "b"), chat_row("a", "b" * 40)])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "row_ids", "unreadable"}
    assert batch["row_ids"] == ["test/7", "test/7"] and batch["unreadable"] == []
    assert batch["input_ids"].shape[1] % 8 == 0
    padding = batch["attention_mask"] == 0
    assert padding.any() and (batch["input_ids"][padding] == small_processor().tokenizer.pad_token_id).all()


def test_only_the_completion_is_a_target():
    row = chat_row("what is in the image?", "a square", images=1)
    more = chat_row("how many?", "two")["messages"]
    whole = {**row, "messages": row["messages"] + more}
    split = {"id": "7", "source": "test", "images": row["images"]}
    split |= {"prompt": [*row["messages"], more[0]], "completion": [more[1]]}
    collate = SupervisedCollator(small_processor())
    (ids, labels), (whole_ids, whole_labels) = unpadded(collate([split])), unpadded(collate([whole]))
    first = SupervisedCollator(small_processor())([row])
    num_first = int((first["labels"] != IGNORE).sum())
    assert ids == whole_ids
    kept = [label for label in labels if label != IGNORE]
    assert kept == [label for label in whole_labels if label != IGNORE][num_first:] and kept


def test_one_tile_of_each_image_on_request():
    batch = SupervisedCollator(small_processor(), image_aspect_ratio="none")([chat_row("a", "b", images=2)])
    assert batch["image_num_tiles"].tolist() == [1, 1]
    assert_images_fit(batch, small_processor())


def document(*parts: str | int) -> dict:
    """Builds a pre-training row: a number is an image, `.` the end of a chunk, everything else text."""
    content, images = [], []
    for part in parts:
        if isinstance(part, int):
            images.append(image(part))
            content.append({"type": "image", "text": None})
        else:
            kind = "end_of_chunk" if part == "." else "text"
            content.append({"type": kind, "text": part if kind == "text" else None})
    return {"id": "1", "source": "documents", "content": content, "images": images}


@QUICK
@given(st.lists(st.one_of(st.integers(0, 9), st.just("."), texts()), min_size=1, max_size=7), st.integers(1, 60))
def test_every_text_token_of_a_document_is_a_target(parts, max_length):
    processor = small_processor()
    row = document(*parts)
    vocabulary = processor.tokenizer.get_vocab()
    batch = PretrainingCollator(processor)([row])
    assert_images_fit(batch, processor)
    ids, labels = unpadded(batch)
    never = {vocabulary["<image>"], vocabulary["<|endofchunk|>"]}
    assert labels == [IGNORE if index in never else index for index in ids]
    assert ids.count(vocabulary["<|endofchunk|>"]) == parts.count(".")
    assert ids.count(vocabulary["<image>"]) == 3 * len(row["images"])
    spelled = {vocabulary[token] for token in ("<|end|>", "<|user|>", "<image placeholder>", "<pad>")}
    assert not spelled & set(ids)
    cut = PretrainingCollator(processor, max_length=max_length, image_aspect_ratio="anyres")([row])
    assert_images_fit(cut, processor)
    assert cut["input_ids"].shape[1] <= max_length


def test_a_document_is_written_in_the_base_form():
    processor = small_processor()
    row = document(0, "a red square", ".", 1, "a circle", ".")
    text = "<image>a red square<|endofchunk|><image>a circle<|endofchunk|>"
    expected = processor(images=row["images"], text=text, image_aspect_ratio="none")
    ids, _ = unpadded(PretrainingCollator(processor)([row]))
    assert ids == expected["input_ids"][0]
    stage_2 = PretrainingCollator(processor, image_aspect_ratio="anyres")([row])
    assert stage_2["image_num_tiles"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "3", "source": "x", "images": []}, "Row x/3 holds no conversation"),
        (chat_row("a", "b", images=1) | {"images": []}, "has 1 image parts and 0 images"),
        (chat_row("a", "b") | {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "of type 'video'"),
        (
            chat_row("a", "b") | {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "Row test/7: messages, part 0: a text part holds a string",
        ),
    ],
)
def test_rows_that_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        SupervisedCollator(small_processor())([row])


def test_documents_that_are_refused():
    with pytest.raises(ValueError, match="holds no `content`"):
        PretrainingCollator(small_processor())([chat_row("a", "b")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"image_aspect_ratio": "wide"}, "image_aspect_ratio is 'wide'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SupervisedCollator(small_processor(), **options)


def test_a_template_without_marks_is_refused():
    processor = copy.copy(small_processor())
    processor.chat_template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    with pytest.raises(ValueError, match="marks no assistant turn"):
        SupervisedCollator(processor)([chat_row("a", "b")])
