import random

import pytest
import torch

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.data.language import caption
from xgenmm_hf.data.questions import ask_several
from xgenmm_hf.data.render import render
from xgenmm_hf.data.scene import HELD_OUT, LAYOUT_WEIGHTS, TRAIN, make_scene
from xgenmm_hf.inference.asking import RELEASED_SYSTEM
from xgenmm_hf.inference.loading import load
from xgenmm_hf.training import embedded
from xgenmm_hf.training.embedded_chats import (
    ChatCollator,
    ChatDataset,
    Mixture,
    RowEncoder,
    base_row,
    chat_row,
    draw_picture,
)
from xgenmm_hf.training.embedded_labels import CLASSES, count_ink, draw_busy_picture, label_patches, tile_boxes
from xgenmm_hf.training.embedded_model import ANYRES_GRIDS, build_model, build_processor
from xgenmm_hf.training.embedded_optimizer import MuonAdam
from xgenmm_hf.training.embedded_pool import FORMS, PoolBatches, PooledModel, encode_pool
from xgenmm_hf.training.embedded_tokenizer import build_embedded_tokenizer


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_embedded_tokenizer())


def as_messages(row, turns, picture):
    system = [{"role": "system", "content": RELEASED_SYSTEM}] if row.pieces[0][0] == "<|system|>" else []
    chat = []
    for number, turn in enumerate(turns):
        shown = [{"type": "image", "image": picture}] if number == 0 else []
        chat.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.text}]})
        chat.append({"role": "assistant", "content": turn.answer})
    return [*system, *chat]


def test_the_tokenizer_is_the_same_each_time():
    one, other = build_embedded_tokenizer(), build_embedded_tokenizer()
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    shipped = load(TINY_MODEL).processor.tokenizer
    assert shipped.get_vocab() == one.get_vocab()


def test_chats_are_encoded_as_the_processor_encodes_them(processor):
    encoder = RowEncoder(processor)
    for seed in range(12):
        rng = random.Random(seed)
        scene = make_scene(seed)
        turns, picture = ask_several(scene, 4, rng), render(scene, 150)
        row = chat_row(turns, rng, picture)
        encoded = encoder(row)
        expected = processor.apply_chat_template(
            as_messages(row, turns, picture), tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert encoded["input_ids"].tolist() == expected["input_ids"][0].tolist()[: len(encoded["input_ids"])]
        assert torch.equal(encoded["pixel_values"], expected["pixel_values"])
        targets = encoded["input_ids"][encoded["labels"] >= 0]
        ends = processor.tokenizer.decode(targets).count("<|end|>")
        assert ends == len(turns)


def test_base_rows_are_encoded_as_the_processor_encodes_them(processor):
    encoder = RowEncoder(processor)
    for seed in range(12):
        scenes = [make_scene(seed), make_scene(seed + 100)]
        row = base_row([(scene, render(scene, 150)) for scene in scenes], random.Random(seed))
        text = "".join(piece for piece, _ in row.pieces)
        mode = "none" if row.one_tile else "anyres"
        expected = processor(images=row.pictures, text=text, image_aspect_ratio=mode, return_tensors="pt")
        assert encoder(row)["input_ids"].tolist() == expected["input_ids"][0].tolist()


def test_text_rows_are_encoded_as_the_processor_encodes_them(processor):
    scene = make_scene(1)
    row = chat_row(ask_several(scene, 3, random.Random(0)), random.Random(0), before=f"{caption(scene)} ")
    text = "".join(piece for piece, _ in row.pieces)
    assert RowEncoder(processor)(row)["input_ids"].tolist() == processor(text=text)["input_ids"][0]


def test_a_batch_is_padded_without_targets(processor):
    data = ChatDataset(processor, Mixture(chat=1, single=1, base=1, text=1), 12, 0, TRAIN, batch_size=1)
    rows = [data[index] for index in range(12)]
    batch = ChatCollator(processor.tokenizer.pad_token_id)(rows)
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == -100).all()
    assert (batch["input_ids"][padding] == processor.tokenizer.pad_token_id).all()
    assert batch["pixel_values"].shape[0] == batch["image_num_tiles"].sum()
    assert (batch["labels"][batch["input_ids"] == processor.image_token_id] == -100).all()


@pytest.mark.parametrize("form", FORMS["forms"], ids=lambda form: f"{form.kind} of {form.rows}")
def test_pool_batches_fit_their_pictures(processor, form):
    model = build_model(processor.tokenizer).eval()
    pool = encode_pool(model, processor, 20, first_seed=5)
    assert [len(seen.tokens) for seen in pool] == sorted(len(seen.tokens) for seen in pool)
    batch = PoolBatches(processor, pool, (form,), 4, first_seed=0)[1]
    assert len(batch["input_ids"]) == min(form.rows, len(pool))
    assert (batch["input_ids"] == processor.image_token_id).sum() == len(batch["picture_tokens"])
    assert PooledModel(model)(**batch).loss.isfinite()


def test_pool_tokens_are_those_of_the_picture(processor):
    model = build_model(processor.tokenizer).eval()
    seen = encode_pool(model, processor, 1, first_seed=5)[0]
    rng = random.Random("pool/5")
    rng.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))
    inputs = processor.image_processor(draw_picture(seen.scene, rng))
    expected = model.get_image_features(**inputs).pooler_output[0]
    torch.testing.assert_close(seen.tokens.float(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (100, 230), (230, 100), (90, 256), (256, 90), (150, 200)])
def test_tile_boxes_show_what_the_tiles_show(processor, height, width):
    from PIL import Image

    ramp = Image.linear_gradient("L").resize((width, height))
    tiles = processor.image_processor(Image.merge("RGB", [ramp] * 3))["pixel_values"]
    boxes = tile_boxes(height, width, ANYRES_GRIDS, 64)
    assert len(boxes) == len(tiles)
    for tile, box in zip(tiles, boxes, strict=True):
        for row in (5, 32, 60):
            y = box.top + (box.bottom - box.top) * (row + 0.5) / 64
            x = box.left + (box.right - box.left) * 0.5
            value = (tile[0, row, 32].item() + 1) / 2
            assert abs(value - (y if 0 <= y < 1 and 0 <= x < 1 else 0)) < 0.03


def test_patches_are_labelled_with_what_is_there(processor):
    for seed in range(10):
        scene, picture = draw_busy_picture(seed, TRAIN)
        tiles = processor.image_processor(picture)["pixel_values"]
        labels = label_patches(scene, tile_boxes(picture.height, picture.width, ANYRES_GRIDS, 64), 8)
        assert labels.classes.shape == (len(tiles), 64, len(CLASSES))
        filled = (labels.classes[..., 0] > 0) | (labels.classes[..., 4] > 0)
        assert torch.equal(filled, labels.edges[..., 0] > 0)
        ink = count_ink(scene, tiles, labels.classes, 8).mean(-1)
        assert ink[filled].mean() > 2 * ink[~filled].mean()


def test_training_pictures_are_not_held_out_ones():
    train = {draw_busy_picture(seed, TRAIN)[0].content for seed in range(200)}
    assert not train & {draw_busy_picture(seed, HELD_OUT)[0].content for seed in range(200)}


def test_the_optimizer_steps_and_restores():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"m": torch.nn.ModuleDict({"layers": torch.nn.Linear(4, 4)}), "head": torch.nn.Linear(4, 2)}
    )
    optimizer = MuonAdam(model.named_parameters(), muon_rate=0.01, adam_rate=0.01)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 3]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model["head"](model["m"]["layers"](torch.randn(3, 4))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    copy = MuonAdam(model.named_parameters(), muon_rate=0.5, adam_rate=0.5)
    copy.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in copy.param_groups] == [0.01, 0.01]


def test_the_whole_way_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    small = {
        name: embedded.replace(stage, steps=2, batch_size=2, pool=min(stage.pool, 12))
        for name, stage in embedded.STAGES.items()
    }
    monkeypatch.setattr(embedded, "STAGES", small)
    monkeypatch.setattr(embedded, "_CHECKED_PICTURES", 2)
    monkeypatch.setattr(embedded, "_CHECKED_QUESTIONS", 9)
    output, work = tmp_path / "tiny", tmp_path / "stages"
    embedded.train_embedded(output, work, seed=0, bf16=False)
    first = load(output).model.state_dict()
    (work / "forms.safetensors").unlink()
    embedded.train_embedded(output, work, seed=0, bf16=False)
    assert all(torch.isfinite(value).all() for value in load(output).model.state_dict().values())
    assert set(first) == set(load(output).model.state_dict())
