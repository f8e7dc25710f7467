"""The Hub-era calls on one of our checkpoints: as released notebooks and VLMEvalKit's wrapper make them."""

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, StoppingCriteria

from xgenmm_hf import TINY_MODEL, AutoModelForVision2Seq, XGenMMProcessor


PROMPT = "<|user|>\n<image> What colour is it?<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def model():
    return AutoModelForVision2Seq.from_pretrained(TINY_MODEL, torch_dtype=torch.float32).eval()


@pytest.fixture
def tokenizer(model):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL, use_fast=False, legacy=False)
    tokenizer = model.update_special_tokens(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.eos_token = "<|end|>"
    return tokenizer


@pytest.fixture(scope="module")
def image_processor():
    return AutoImageProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def images():
    return [Image.new("RGB", (90, 200), "red"), Image.linear_gradient("L").convert("RGB")]


def modern_answer(model, prompts, images, **options) -> list[list[int]]:
    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


class EosListStoppingCriteria(StoppingCriteria):
    """As in the released notebooks."""

    def __init__(self, eos_sequence):
        self.eos_sequence = eos_sequence

    def __call__(self, input_ids, scores, **kwargs):
        return self.eos_sequence in input_ids[:, -len(self.eos_sequence) :].tolist()


def test_evaluation_wrappers_call(model, tokenizer, image_processor, images):
    tiles = [image_processor([image], image_aspect_ratio="anyres")["pixel_values"] for image in images]
    prompt = PROMPT.replace("<image>", "<image> <image> ")
    language_inputs = tokenizer([prompt], return_tensors="pt")
    options = {"temperature": 0.0, "do_sample": False, "top_p": None, "num_beams": 1, "max_new_tokens": 6}
    output = model.generate(
        pixel_values=[tiles],
        **language_inputs,
        image_size=[[image.size for image in images]],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )
    expected = modern_answer(model, [prompt], images, eos_token_id=tokenizer.eos_token_id)
    assert output.tolist() == expected
    assert isinstance(tokenizer.decode(output[0], skip_special_tokens=True).split("<|end|>")[0], str)


def test_notebooks_batch(model, tokenizer, image_processor, images):
    tiles = [[image_processor.preprocess([p], image_aspect_ratio="anyres")["pixel_values"]] for p in images]
    prompts = [PROMPT, "<|system|>\nBe brief.<|end|>\n" + PROMPT]
    language_inputs = tokenizer(prompts, return_tensors="pt", padding="longest")
    output = model.generate(
        pixel_values=tiles,
        image_size=[[image.size] for image in images],
        **language_inputs,
        max_new_tokens=6,
        do_sample=False,
        stopping_criteria=[EosListStoppingCriteria([10**6])],
    )
    assert output.tolist() == modern_answer(model, prompts, images)


def test_model_cards_call(model, tokenizer, image_processor, images):
    """The image processor's whole output and the tokenizer's in one dict."""
    inputs = image_processor(images[:1], return_tensors="pt", image_aspect_ratio="anyres")
    inputs.update(tokenizer([PROMPT], return_tensors="pt"))
    output = model.generate(**inputs, image_size=[images[0].size], max_new_tokens=6, do_sample=False)
    assert output.tolist() == modern_answer(model, [PROMPT], images[:1])


def test_text_alone(model, tokenizer):
    inputs = tokenizer(["<|user|>\nHello.<|end|>\n<|assistant|>\n"], return_tensors="pt")
    output = model.generate(pixel_values=None, image_size=None, **inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] <= 4


def test_scores_on_request(model, tokenizer, image_processor, images):
    tiles = image_processor.preprocess(images[:1], image_aspect_ratio="anyres")["pixel_values"]
    output = model.generate(
        pixel_values=[[tiles]],
        image_size=[[images[0].size]],
        **tokenizer([PROMPT], return_tensors="pt"),
        max_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert output.sequences.shape[1] == len(output.scores)


def test_foreign_tokenizer_is_refused(model, tokenizer):
    tokenizer.add_tokens(["<image>x"])
    model.config.image_token_id += 1
    try:
        with pytest.raises(ValueError, match="load the tokenizer from the model's own folder"):
            model.update_special_tokens(tokenizer)
    finally:
        model.config.image_token_id -= 1


@pytest.mark.parametrize(
    ("prompt", "sizes", "message"),
    [
        ("no image", [(90, 200)], "Prompt 0 holds 0 <image> tokens for 1 images"),
        ("<image> and <image>", [(90, 200)], "Prompt 0 holds 2 <image> tokens for 1 images"),
        (PROMPT, [(90, 200), (1, 1)], "image_size holds 2 sizes for 1 images"),
        (PROMPT, None, "image_size holds 0 sizes for 1 images"),
    ],
)
def test_what_does_not_fit(model, tokenizer, image_processor, images, prompt, sizes, message):
    tiles = image_processor.preprocess(images[:1], image_aspect_ratio="anyres")["pixel_values"]
    with pytest.raises(ValueError, match=message):
        model.generate(
            pixel_values=[[tiles]], image_size=[sizes], **tokenizer([prompt], return_tensors="pt"), max_new_tokens=2
        )


def test_base_form_six_dimensions(model, tokenizer, image_processor, images):
    """(1, images, 1, 3, S, S) with one `<image>` and placeholders an image."""
    values = image_processor.preprocess(images, return_tensors="pt")["pixel_values"]
    assert values.dim() == 6
    prompt = ("<image>" + "<image placeholder>" * 15 + "one<|endofchunk|>") * 2
    output = model.generate(
        pixel_values=values,
        image_size=[[image.size for image in images]],
        **tokenizer([prompt], return_tensors="pt"),
        max_new_tokens=3,
        do_sample=False,
    )
    assert output.shape[1] <= 3
