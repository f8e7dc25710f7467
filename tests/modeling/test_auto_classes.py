"""Auto classes, the pipeline, and checkpoints that load without the package."""

import json
import os
import re

import forked
import pytest
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import xgenmm_hf
from xgenmm_hf import (
    TINY_MODEL,
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMModel,
    XGenMMProcessor,
    XGenMMTokenizer,
)
from xgenmm_hf.modeling.remote_code_xgenmm import AUTO_MAP, copy_remote_code


WITHOUT_THE_PACKAGE = """
import builtins, sys
sys.modules["xgenmm_hf"] = None  # importing it fails
builtins.input = lambda *message: sys.exit("asked: " + str(message))
import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline
)

def load(folder):
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "xgenmm"
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)) is type(processor.image_processor)
    for use_fast in (True, False):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, use_fast=use_fast)
        assert type(tokenizer).__name__ == "XGenMMTokenizer", type(tokenizer)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    assert "transformers_modules" in type(model).__module__, type(model).__module__
    return processor, model

def logits_of(folder):
    processor, model = load(folder)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    image = Image.linear_gradient("L").resize((90, 60))
    inputs = processor(images=image, text="<image>What?", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(model.lm_head(base(**inputs).last_hidden_state), logits)
    return logits

saved, again, file = sys.argv[1:]
first = logits_of(saved)
pipe = pipeline("image-text-to-text", model=saved, trust_remote_code=True)
assert "transformers_modules" in type(pipe.model).__module__, type(pipe.model)
for part in reversed(load(saved)):
    part.save_pretrained(again)
torch.save([first, logits_of(again)], file)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The embedded model as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("saved")
    XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32).save_pretrained(folder)
    XGenMMProcessor.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected_logits(saved):
    model = XGenMMForConditionalGeneration.from_pretrained(saved, dtype=torch.float32).eval()
    image = Image.linear_gradient("L").resize((90, 60))
    inputs = XGenMMProcessor.from_pretrained(saved)(images=image, text="<image>What?", return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_the_name_of_the_model_cards_snippet():
    from transformers import AutoModelForVision2Seq

    assert (
        type(AutoModelForVision2Seq.from_pretrained(xgenmm_hf.TINY_MODEL)).__name__ == "XGenMMForConditionalGeneration"
    )


def test_registered_classes():
    assert type(AutoConfig.from_pretrained(TINY_MODEL)) is XGenMMConfig
    assert type(AutoModel.from_pretrained(TINY_MODEL)) is XGenMMModel
    assert type(AutoModelForImageTextToText.from_pretrained(TINY_MODEL)) is XGenMMForConditionalGeneration
    assert type(xgenmm_hf.AutoModelForVision2Seq.from_pretrained(TINY_MODEL)) is XGenMMForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(TINY_MODEL)) is XGenMMProcessor
    assert type(AutoImageProcessor.from_pretrained(TINY_MODEL)) is XGenMMImageProcessor
    assert type(AutoTokenizer.from_pretrained(TINY_MODEL)) is XGenMMTokenizer
    assert type(AutoTokenizer.from_pretrained(TINY_MODEL, use_fast=False, legacy=False)) is XGenMMTokenizer


def test_every_auto_class_of_this_line():
    for name in AUTO_MAP:
        if hasattr(transformers, name):
            assert type(getattr(transformers, name).from_pretrained(TINY_MODEL)).__name__.startswith("XGenMM"), name
        else:
            assert name in ("AutoModelForVision2Seq", "AutoModelForMultimodalLM")


def test_pipeline():
    ask = pipeline("image-text-to-text", model=TINY_MODEL)
    image = Image.new("RGB", (90, 60), "red")
    message = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]}
    answer = ask(text=[message], max_new_tokens=3, return_full_text=False)
    assert isinstance(answer[0]["generated_text"], str) and "<|end|>" not in answer[0]["generated_text"]


def test_saved_folder_has_the_one_layout(saved):
    files = {path.name for path in saved.iterdir()}
    assert set(copy_remote_code(saved)) <= files
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["text_config"]["rope_theta"] == config["text_config"]["rope_parameters"]["rope_theta"]
    tokenizer = json.loads((saved / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "XGenMMTokenizer" and "extra_special_tokens" not in tokenizer
    assert {"preprocessor_config.json", "processor_config.json", "chat_template.jinja"} <= files
    with safe_open(saved / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    heads = {name.split(".")[0] + "." + name.split(".")[1] for name in names}
    assert heads == {"model.vision_tower", "model.resampler", "model.language_model", "lm_head.weight", "lm_head.bias"}
    tower = [name for name in names if name.startswith("model.vision_tower.")]
    assert all(name.startswith("model.vision_tower.vision_model.") for name in tower)


@pytest.mark.slow
def test_without_the_package_bit_identical_and_again(saved, expected_logits, tmp_path):
    """The folder loads as remote code, and what that code saves loads again, without the package and with it."""
    again, logits = tmp_path / "again", tmp_path / "logits.pt"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = ["-c", WITHOUT_THE_PACKAGE, saved, again, logits]
    done = forked.run(command, env=environment, cwd=tmp_path, server=forked.others)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in again.iterdir()} == {path.name for path in saved.iterdir()}
    assert all(torch.equal(each, expected_logits) for each in torch.load(logits, weights_only=True))
    model = XGenMMForConditionalGeneration.from_pretrained(again, dtype=torch.float32).eval()
    image = Image.linear_gradient("L").resize((90, 60))
    inputs = XGenMMProcessor.from_pretrained(again)(images=image, text="<image>What?", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected_logits)


def test_copied_code_covers_every_import(tmp_path):
    """What 4.57 fetches from a local folder: an Auto class's own file and the siblings that it names itself."""
    names = copy_remote_code(tmp_path)
    siblings = {
        name: set(re.findall(r"^\s*from \.(\w+) import", (tmp_path / name).read_text(), re.M)) for name in names
    }
    loaded_first = {"configuration_xgenmm"} | siblings["configuration_xgenmm.py"]
    for entry in ("configuration", "modeling", "image_processing", "processing", "tokenization"):
        own = siblings[f"{entry}_xgenmm.py"]
        fetched = own | (loaded_first if entry == "modeling" else set())
        for sibling in own:
            assert siblings[f"{sibling}.py"] <= fetched, f"{entry} -> {sibling}"


def test_original_layout_is_refused_with_the_way_out(tmp_path):
    fields = {"model_type": "xgenmm", "vision_encoder_config": {"image_aspect_ratio": "anyres"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for loader in (XGenMMForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match=r"original layout; convert it first: xgenmm convert"):
            loader.from_pretrained(tmp_path)
