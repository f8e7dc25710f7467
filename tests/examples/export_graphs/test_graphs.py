"""The exported graphs give what the model gives: images' tokens, logits, answers."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export_graphs.__main__ import main
from export_graphs.modules import TextGraph
from export_graphs.running import Graphs
from export_graphs.tracing import describe_graphs, trace_vision
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration, load


PAGE = Path(__file__).resolve().parents[3] / "docs" / "export.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The graphs that the command of docs/export.md writes."""
    place = tmp_path_factory.mktemp("export")
    (place / "xgenmm_hf").mkdir()
    (place / "xgenmm_hf/assets").symlink_to(Path(TINY_MODEL).parent)
    command = re.search(r"^PYTHONPATH=examples python -m (export_graphs .*)$", PAGE.read_text(), re.M)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", shlex.split(command))
        main()
    return place / "graphs"


@pytest.fixture(scope="module")
def graphs(folder):
    """The graphs as docs/export.md reads them; the page compares their answer with the model's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        Image.open(Path(TINY_MODEL).parent / "images/1-shapes.png").resize((120, 90)).save("photo.png")
        names = {}
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
            exec(compile(block, PAGE.name, "exec"), names)
    assert names["answer"].shape[1] > 0
    return names["graphs"]


def test_a_folder_in_use_and_a_wrong_context_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").touch()
    for out, context, said in (
        (tmp_path, "9", "is there already"),
        (tmp_path / "out", "1", "this model can have 2 to"),
    ):
        monkeypatch.setattr(sys, "argv", ["export_graphs", TINY_MODEL, str(out), "--context", context])
        with pytest.raises(SystemExit, match="1"):
            main()
        assert said in capsys.readouterr().err.splitlines()[-1]  # behind the library's loading bar


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, device="cpu")


@pytest.fixture(scope="module")
def prepare(loaded):
    """Returns a function that makes the inputs of chats, each of (image sizes, text)."""

    def make(*chats):
        processor, images, prompts = loaded.processor, [], []
        for sizes, text in chats:
            content = [{"type": "image"} for _ in sizes] + [{"type": "text", "text": text}]
            images += [Image.effect_noise(size, 90).convert("RGB") for size in sizes]
            message = {"role": "user", "content": content}
            prompts.append(processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))
        return processor(images=images or None, text=prompts, padding=True, padding_side="left", return_tensors="pt")

    return make


BATCHES = {
    "an image": [([(90, 60)], "What color is the star?")],
    "two and one": [([(90, 200), (64, 64)], "Which differs?"), ([(300, 90)], "How many red shapes are there?")],
    "text": [([], "Hello, what is this?")],
}


@pytest.mark.parametrize("chats", BATCHES.values(), ids=BATCHES)
def test_answers_are_the_models(graphs, loaded, prepare, chats):
    inputs = prepare(*chats)
    with torch.no_grad():
        expected = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert torch.equal(graphs.generate(inputs, 8), expected[:, inputs["input_ids"].shape[1] :])


def test_tokens_of_images_are_the_models(graphs, loaded, prepare):
    inputs = prepare(*BATCHES["two and one"])
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes", "image_num_tiles")}
    with torch.no_grad():
        expected = torch.cat(loaded.model.get_image_features(**images).pooler_output)
        torch.testing.assert_close(graphs.vision(**images), expected, rtol=0, atol=1e-6)


def test_a_runtime_without_transformers(folder):
    code = (
        "import json, sys, torch\n"
        "vision = torch.export.load(sys.argv[1]).module()\n"
        "side = int(sys.argv[2])\n"
        "tokens = vision(pixel_values=torch.rand(1, 3, side, side), image_sizes=torch.tensor([[side, side]]),\n"
        "                image_num_tiles=torch.tensor([1]))\n"
        "assert tokens.isfinite().all()\n"
        "assert not {'transformers', 'xgenmm_hf'} & set(sys.modules)\n"
    )
    side = json.loads((folder / "graphs.json").read_text())["tile_size"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "vision.pt2"), str(side)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_too_long_a_prompt(graphs, prepare):
    with pytest.raises(ValueError, match="the graph's context is 384"):
        graphs.generate(prepare(*BATCHES["text"]), 400)


def test_a_folder_without_graphs(tmp_path):
    with pytest.raises(ValueError, match="python -m export_graphs"):
        Graphs.load(tmp_path)


VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 103,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make_model(text=None, **fields):
    config = XGenMMConfig(
        vision_config={"image_size": 16, "patch_size": 4, **VISION},
        resampler_config={"num_latents": 4, "depth": 1, "num_heads": 2, "head_dim": 8},
        text_config={**TEXT, **(text or {})},
        image_token_id=100,
        image_placeholder_token_id=101,
        end_of_chunk_token_id=102,
        **fields,
    )
    torch.manual_seed(0)
    return XGenMMForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


PHI = {"original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "text",
    [{**PHI, "sliding_window": 5}, {**PHI, "sliding_window": None}, {"model_type": "llama"}, {"model_type": "qwen2"}],
    ids=["window", "phi3", "llama", "qwen2"],
)
@torch.no_grad()
def test_step_by_step_is_all_at_once(text):
    """What is traced, in prefill and single steps with a padded row, against the model's own forward."""
    model = make_model(text)
    cache = describe_graphs(model, 32)["cache"]
    assert cache["heads"] == 2
    input_ids = torch.randint(3, 100, (2, 12))
    padding = torch.tensor([0, 3])
    attention_mask = (torch.arange(12) >= padding[:, None]).long()
    expected = model(input_ids=input_ids, attention_mask=attention_mask).logits
    shape = (2, cache["heads"], cache["context"], cache["head_dim"])
    keys, values = ([torch.zeros(shape) for _ in range(cache["layers"])] for _ in range(2))
    graph, nothing = TextGraph(model), torch.zeros(1, 32)
    start = 0
    for end in (7, 8, 9, 12):
        logits = graph(input_ids[:, start:end], nothing, torch.tensor([start]), padding, keys, values)
        torch.testing.assert_close(logits, expected[:, end - 1], rtol=1e-4, atol=1e-5)
        start = end


@pytest.mark.parametrize(
    "fields",
    [{"image_aspect_ratio": "none"}, {"anyres_patch_sampling": False}],
    ids=["one tile", "fixed sampling"],
)
@torch.no_grad()
def test_vision_in_other_modes(fields):
    model = make_model(PHI, **fields)
    graph = trace_vision(model, describe_graphs(model)).module()
    one_tile = "image_aspect_ratio" in fields
    tiles = torch.tensor([1, 1] if one_tile else [4, 5])
    inputs = {
        "pixel_values": torch.rand(int(tiles.sum()), 3, 16, 16),
        "image_sizes": torch.tensor([(40, 10), (40, 40)]),
        "image_num_tiles": tiles,
    }
    expected = torch.cat(model.get_image_features(**inputs).pooler_output)
    torch.testing.assert_close(graph(**inputs), expected, rtol=0, atol=1e-6)


def test_models_that_cannot_be_a_graph():
    layers = {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}
    with pytest.raises(ValueError, match="mixes attention layers"):
        describe_graphs(make_model(layers))
    factors = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = {"original_max_position_embeddings": 32, "rope_scaling": factors}
    with pytest.raises(ValueError, match="longrope"):
        describe_graphs(make_model(long))
    with pytest.raises(ValueError, match="2 to 64 tokens"):
        describe_graphs(make_model(PHI), 65)
