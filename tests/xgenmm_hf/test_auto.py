"""Registration: nothing asks to run code, and libraries that look only at Transformers' names find the model."""

import builtins
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.models.auto import modeling_auto

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.modeling.compat_xgenmm import IS_V5


ASSETS = Path(TINY_MODEL).parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The embedded model as `save_pretrained` writes it, with its code files."""
    folder = tmp_path_factory.mktemp("saved")
    AutoModelForImageTextToText.from_pretrained(TINY_MODEL, dtype=torch.float32).save_pretrained(folder)
    AutoProcessor.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture
def nobody_to_ask(monkeypatch) -> None:
    def ask(*message):
        raise AssertionError(f"asked: {message}")

    monkeypatch.setattr(builtins, "input", ask)


def test_nothing_asks(saved, nobody_to_ask):
    image = Image.open(ASSETS / "images" / "3-banner.png")
    question = {"type": "text", "text": "What color is the star?"}
    message = {"role": "user", "content": [{"type": "image", "image": image}, question]}
    for folder in (TINY_MODEL, str(saved)):
        assert AutoConfig.from_pretrained(folder).model_type == "xgenmm"
        answer = pipeline("image-text-to-text", model=folder)(text=[message], max_new_tokens=3, return_full_text=False)
        assert answer[0]["generated_text"] == "blue"


def test_remote_code_may_be_trusted_where_there_is_none(nobody_to_ask):
    for folder in (TINY_MODEL, TINY_BASE_MODEL):
        assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)) is XGenMMConfig
        named = [file.name for file in Path(folder).glob("*.json") if "auto_map" in json.loads(file.read_text())]
        assert not named, "these files name code files that the folder does not have"


def test_auto_peft_model_loads_adapters(saved, nobody_to_ask, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        expected = wrapped.eval()(input_ids=ids).logits
        again = peft.AutoPeftModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
        assert type(again.base_model.model) is XGenMMForConditionalGeneration
        assert torch.equal(again(input_ids=ids).logits, expected)


def test_the_library_s_own_names():
    assert transformers.XGenMMForConditionalGeneration is XGenMMForConditionalGeneration
    tables = ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", *(["MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"] * IS_V5)]
    for table in tables:
        assert getattr(modeling_auto, table)["xgenmm"] == "XGenMMForConditionalGeneration"
