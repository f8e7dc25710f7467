import pytest
import torch
from embedded_model.parts import build as embedded
from embedded_model.parts.labels import CLASSES, count_ink, draw_busy_image, label_patches, tile_boxes
from embedded_model.parts.model import ANYRES_GRIDS, build_processor
from embedded_model.parts.muon import MuonAdam
from embedded_model.parts.tokenizer import build_embedded_tokenizer
from embedded_model.world.scene import HELD_OUT, TRAIN

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import load


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_embedded_tokenizer())


def test_the_tokenizer_is_the_same_each_time():
    one, other = build_embedded_tokenizer(), build_embedded_tokenizer()
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert one.get_vocab() == load(TINY_MODEL).processor.tokenizer.get_vocab()


def test_a_corner_is_one_token(processor):
    for text in ("top left", "Which shape is at the top left?", "bottom right"):
        tokens = processor.tokenizer.tokenize(text)
        assert sum(" " in token.replace("\u2581", " ").strip() for token in tokens) == 1
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]).strip() == text


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
        scene, image = draw_busy_image(seed, TRAIN)
        tiles = processor.image_processor(image)["pixel_values"]
        labels = label_patches(scene, tile_boxes(image.height, image.width, ANYRES_GRIDS, 64), 8)
        assert labels.classes.shape == (len(tiles), 64, len(CLASSES))
        filled = (labels.classes[..., 0] > 0) | (labels.classes[..., 4] > 0)
        assert torch.equal(filled, labels.edges[..., 0] > 0)
        ink = count_ink(scene, tiles, labels.classes, 8).mean(-1)
        assert ink[filled].mean() > 2 * ink[~filled].mean()


def test_training_images_are_not_held_out_ones():
    train = {draw_busy_image(seed, TRAIN)[0].content for seed in range(200)}
    assert not train & {draw_busy_image(seed, HELD_OUT)[0].content for seed in range(200)}


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
    small = {name: embedded.replace(stage, steps=2, batch_size=2) for name, stage in embedded.STAGES.items()}
    monkeypatch.setattr(embedded, "STAGES", small)
    monkeypatch.setattr(embedded, "_CHECKED_IMAGES", 2)
    output, work = tmp_path / "tiny", tmp_path / "stages"
    embedded.train_embedded(output, work, seed=0, bf16=False)
    first = load(output).model.state_dict()
    (work / "tokens.safetensors").unlink()
    embedded.train_embedded(output, work, seed=0, bf16=False)
    assert all(torch.isfinite(value).all() for value in load(output).model.state_dict().values())
    assert set(first) == set(load(output).model.state_dict())
