"""The dry run of a mixture."""

import json

import pytest
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMProcessor
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.data.preview import MEASURES, preview_mixture


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def mixture(tmp_path):
    """Six rows with an image, one of them unreadable, sampled twice; one malformed record; two texts."""
    Image.new("RGB", (300, 100)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
    records = [{"id": f"a{i}", "image": "2.png" if i == 3 else "1.png", "conversations": turns} for i in range(6)]
    (tmp_path / "a.json").write_text(json.dumps([*records, {"conversations": 3}]))
    answers = ["No.", "No. " * 50]
    texts = [[{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": answer}] for answer in answers]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"conversations": turns}) + "\n" for turns in texts))
    file = tmp_path / "mixture.yaml"
    file.write_text("data: {a.json: 12, b.jsonl: all}\n")
    return file


def test_counts_and_measures(mixture, processor, tmp_path):
    loaded = load_mixture(mixture, max_rejected=1.0, cache_dir=tmp_path / "cache")
    done = []
    found = preview_mixture(
        loaded, processor, tmp_path / "out", max_length=100, progress=lambda *numbers: done.append(numbers)
    )
    assert tuple(found[name] for name in ("rows", "kind", "counts", "unreadable")) == (
        14,
        "chat",
        {"a": 12, "b": 2},
        1,
    )
    assert tuple(found["all"][name] for name in ("rows", "images", "modalities")) == (12, 10, {"image": 10, "text": 2})
    total = {name: found["all"][name]["total"] for name in MEASURES}
    assert total["tokens"] == total["text_tokens"] + total["image_tokens"]
    tiles = processor.image_processor.get_number_of_image_patches(100, 300, {})
    assert found["by_source"]["a"]["tiles"]["mean"] == tiles
    assert found["by_source"]["a"]["image_tokens"]["largest"] == tiles * processor.num_latents
    assert found["by_source"]["b"]["too_long"] == 1
    assert done[-1] == (14, 14)
    lengths = [found["by_source"]["b"]["tokens"][name] for name in ("total", "mean", "median", "largest")]
    assert lengths[1] == lengths[2] == lengths[0] / 2 < lengths[3]
    problems = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert [(item["outcome"], item["id"]) for item in problems] == [("rejected", "6"), ("unreadable", "a3@3")]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"] == 14
    with Image.open(tmp_path / "out" / "lengths.png") as image:
        assert (image.format, image.size) == ("PNG", (840, 480))
        shown = {color: number for number, color in image.convert("RGB").getcolors(840 * 480)}
    assert shown[0x3B, 0x6E, 0xA5] > 10_000, "the bars of the histogram"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.json", "problems.jsonl", "lengths.png"}


def test_a_limit_measures_a_part_and_counts_all(mixture, processor, tmp_path):
    loaded = load_mixture(mixture, max_rejected=1.0, cache_dir=tmp_path / "cache")
    found = preview_mixture(loaded, processor, limit=5)
    assert (found["rows"], found["counts"]) == (14, {"a": 12, "b": 2})
    assert 1 <= found["all"]["rows"] <= 5
    one_tile = preview_mixture(loaded, processor, image_aspect_ratio="none")
    assert one_tile["by_source"]["a"]["tiles"]["mean"] == 1


@pytest.mark.parametrize(
    ("record", "kind", "tiles"),
    [
        ({"image": "1.png", "caption": "A bus."}, "pretraining", 1),
        ({"images": ["1.png"], "prompt": "What?", "chosen": "A bus.", "rejected": "A dog."}, "preference", None),
    ],
)
def test_other_kinds(tmp_path, processor, record, kind, tiles):
    Image.new("RGB", (300, 100)).save(tmp_path / "1.png")
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    (tmp_path / "mixture.yaml").write_text("data: {a.jsonl: all}\n")
    found = preview_mixture(load_mixture(tmp_path / "mixture.yaml", cache_dir=tmp_path / "cache"), processor)
    assert (found["kind"], found["all"]["rows"]) == (kind, 1)
    assert found["all"]["tiles"]["largest"] == (
        tiles or processor.image_processor.get_number_of_image_patches(100, 300, {})
    )
