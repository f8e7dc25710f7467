"""The first release (r-v1) from its own layout and names, back to it, and through its model card's call."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, StoppingCriteria

from xgenmm_hf import AutoModelForVision2Seq, XGenMMConfig, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.conversion import convert_checkpoint, export_checkpoint, export_state_dict
from xgenmm_hf.conversion.model_card import released_license
from xgenmm_hf.inference.feature_cache import FeatureCache


TOKENIZER = Path(__file__).parents[1] / "fixtures" / "tokens" / "source"
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CARD_PROMPT = "<|user|>\n<image>\nwhat is this?<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def release(golden: Path) -> Path:
    return golden / "first_release" / "checkpoint"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def test_converts_without_being_told_the_image_mode(release, tmp_path):
    result = convert_checkpoint(release, tmp_path / "out")
    assert result.image_mode == "anyres" and result.dropped == ("vlm.vision_encoder.proj",)
    config = XGenMMConfig.from_pretrained(tmp_path / "out")
    assert config.resampler_config.text_conditioned and not config.resampler_config.letterbox_mask
    assert (config.resampler_config.depth, config.resampler_config.num_heads) == (6, 16)
    assert config.anyres_grids == [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    assert config.text_config.sliding_window == 2048
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_mean == CLIP_MEAN and processor.size == {"height": 56, "width": 56}
    assert processor.image_aspect_ratio == "anyres" and processor.anyres_grids == config.anyres_grids


def test_clip_mean_is_the_default(release, tmp_path):
    source = shutil.copytree(release, tmp_path / "source")
    (source / "preprocessor_config.json").unlink()
    convert_checkpoint(source, tmp_path / "out")
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").image_mean == CLIP_MEAN


def test_licences_differ():
    first = XGenMMConfig(resampler_config={"text_conditioned": True})
    assert (released_license(first), released_license(XGenMMConfig())) == ("cc-by-nc-4.0", "apache-2.0")


def test_goes_back_to_its_own_layout(release, tmp_path):
    convert_checkpoint(release, tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (release, tmp_path / "back"))
    assert set(before) - set(after) == {"vlm.vision_encoder.proj"}
    assert all(torch.equal(after[name], before[name]) for name in after)
    for name in ("config.json", "preprocessor_config.json"):
        stated, written = read_json(release / name), read_json(tmp_path / "back" / name)
        assert {key: value for key, value in written.items() if key in stated and key != "text_config"} == {
            key: value for key, value in stated.items() if key != "text_config"
        }
    text = read_json(tmp_path / "back" / "config.json")["text_config"]
    assert text.items() >= read_json(release / "config.json")["text_config"].items()
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert read_json(tmp_path / "again" / "config.json") == read_json(tmp_path / "ours" / "config.json")


def test_a_saved_model_goes_back_without_the_kept_files(release, tmp_path):
    convert_checkpoint(release, tmp_path / "ours")
    model = XGenMMForConditionalGeneration.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "saved")
    AutoImageProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "saved")
    export_checkpoint(tmp_path / "saved", tmp_path / "back")
    config = read_json(tmp_path / "back" / "config.json")
    assert config["model_type"] == "blip_3"
    assert config["architectures"] == ["Blip3ModelForConditionalGeneration"]
    assert "anyres_grids" not in config["vision_encoder_config"]
    assert "grids" not in read_json(tmp_path / "back" / "preprocessor_config.json")
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_without_a_config_are_known_by_their_tensors(release, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    state = {name.removeprefix("vlm."): tensor for name, tensor in load_file(release / "model.safetensors").items()}
    torch.save(state, source / "weights.pt")
    config = read_json(release / "config.json")
    del config["model_type"]
    (source / "config.json").write_text(json.dumps(config))
    shutil.copyfile(release / "vision_config.json", source / "vision_config.json")
    convert_checkpoint(source / "weights.pt", tmp_path / "out")
    assert XGenMMConfig.from_pretrained(tmp_path / "out").resampler_config.text_conditioned


def test_other_grids_have_no_place_there(release, tmp_path):
    convert_checkpoint(release, tmp_path / "ours")
    config = read_json(tmp_path / "ours" / "config.json")
    config["anyres_grids"] = [[112, 112]]
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="grids built in"):
        export_checkpoint(tmp_path / "ours", tmp_path / "back")


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory) -> Path:
    """A converted checkpoint with a tokenizer: the golden config around the small tokenizer, random weights."""
    source = tmp_path_factory.mktemp("first") / "source"
    shutil.copytree(TOKENIZER, source)
    fields = read_json(release / "config.json")
    fields["text_config"] |= {"initial_tokenizer_len": 524, "vocab_size": 576, "num_hidden_layers": 1}
    tower = read_json(release / "vision_config.json")
    torch.manual_seed(0)
    model = XGenMMForConditionalGeneration(XGenMMConfig.from_dict({**fields, "vision_config": tower}))
    with torch.no_grad():
        for weight in model.model.resampler.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    tensors = {
        name: tensor.contiguous() for name, tensor in export_state_dict(model.state_dict(), model.config).items()
    }
    save_file(tensors, source / "model.safetensors")
    for name, content in {"config.json": fields, "vision_config.json": tower}.items():
        (source / name).write_text(json.dumps(content))
    shutil.copyfile(release / "preprocessor_config.json", source / "preprocessor_config.json")
    out = source.parent / "out"
    convert_checkpoint(source, out)
    return out


def test_the_sentencepiece_model_goes_there_and_back(converted, tmp_path):
    assert not (converted / "tokenizer.model").exists()
    result = export_checkpoint(converted, tmp_path / "back")
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == (TOKENIZER / "tokenizer.model").read_bytes()
    assert result.notes == ()
    (converted / "original" / "tokenizer.model").rename(tmp_path / "elsewhere")
    assert "copy the release's" in export_checkpoint(converted, tmp_path / "without").notes[0]
    (tmp_path / "elsewhere").rename(converted / "original" / "tokenizer.model")


class EosListStoppingCriteria(StoppingCriteria):
    """As on the published card."""

    def __init__(self, eos_sequence=(515,)):
        self.eos_sequence = list(eos_sequence)

    def __call__(self, input_ids, scores, **kwargs):
        last_ids = input_ids[:, -len(self.eos_sequence) :].tolist()
        return self.eos_sequence in last_ids


def test_model_cards_call(converted):
    """The published card's lines, with `image_size=[image.size]`."""
    model = AutoModelForVision2Seq.from_pretrained(converted, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(converted, trust_remote_code=True, use_fast=False, legacy=False)
    image_processor = AutoImageProcessor.from_pretrained(converted, trust_remote_code=True)
    tokenizer = model.update_special_tokens(tokenizer)
    raw_image = Image.linear_gradient("L").resize((120, 70)).convert("RGB")
    inputs = image_processor([raw_image], return_tensors="pt", image_aspect_ratio="anyres")
    language_inputs = tokenizer([CARD_PROMPT], return_tensors="pt")
    inputs.update(language_inputs)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    generated_text = model.generate(
        **inputs,
        image_size=[raw_image.size],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=8,
        top_p=None,
        num_beams=1,
        stopping_criteria=[EosListStoppingCriteria()],
    )
    assert isinstance(tokenizer.decode(generated_text[0], skip_special_tokens=True).split("<|end|>")[0], str)
    processor = XGenMMProcessor.from_pretrained(converted)
    native = processor(images=[raw_image], text=CARD_PROMPT, return_tensors="pt")
    output = model.generate(**native, do_sample=False, max_new_tokens=8)[0, native["input_ids"].shape[1] :]
    assert output.tolist()[: generated_text.shape[1]] == generated_text[0].tolist()


def test_the_processor_takes_one_image_per_prompt(converted):
    processor = XGenMMProcessor.from_pretrained(converted)
    images = [Image.new("RGB", (80, 60)), Image.new("RGB", (60, 80))]
    assert processor(images=images, text=["<image> a", "<image> b"])["image_sizes"].shape == (2, 2)
    with pytest.raises(ValueError, match="at most one image|at most 1 per prompt"):
        processor(images=images, text="<image> and <image>")


def test_kept_tokens_belong_to_image_and_prompt(converted):
    model = XGenMMForConditionalGeneration.from_pretrained(converted).eval()
    processor = XGenMMProcessor.from_pretrained(converted)
    images = [Image.new("RGB", (80, 60), "red"), Image.linear_gradient("L").convert("RGB")]
    prompts = ["<image>\nwhat is this?", "<image>\nhow many of them are there?"]
    cache = FeatureCache(model, processor)
    inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        expected = model(**inputs).logits
        for hits in (0, 2):
            kept = cache.prepare(prompts, images)
            assert (cache.hits, cache.misses) == (hits, 2)
            torch.testing.assert_close(model(**kept).logits, expected, rtol=0, atol=1e-5)
        asked_otherwise = cache.prepare(prompts[::-1], images)
    assert (cache.hits, cache.misses) == (2, 4)
    first = asked_otherwise["mm_encoder_outputs"]["image"].pooler_output[0]
    assert (first - kept["mm_encoder_outputs"]["image"].pooler_output[0]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="one image per prompt"):
        cache.encode(images)
    with pytest.raises(ValueError, match="one image per prompt"):
        cache.prepare("<image> and <image>", images)
