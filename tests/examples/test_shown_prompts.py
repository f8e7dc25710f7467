"""Every prompt that docs, notebooks and examples show gets its expected answer from the shipped weights."""

import json
from pathlib import Path

import pytest
from PIL import Image

import xgenmm_hf


ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path(xgenmm_hf.TINY_MODEL).parent / "images"
ROWS = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
GREETING = (
    "Hello! I am a very small xGen-MM model for demos and tests. I answer questions about images of drawn shapes."
)
LIST = "xgenmm_hf/assets/images/images.json"
# Where a prompt is shown, the numbers of its images, the prompt and the answer.
SHOWN = [
    *(
        ("xgenmm_hf/assets/images/images.json", [number], row["question"], row["answer"])
        for number, row in enumerate(ROWS)
    ),
    ("docs/quickstart.md", [0], "What color is the star?", "orange"),
    ("docs/quickstart.md", [0], "How many shapes are there?", "5"),
    ("docs/serving.md", [0], "What color is the star?", "orange"),
    ("docs/quickstart.md", [], "Hello!", GREETING),
    ("examples/02_batch_inference.ipynb", [], "Hello!", GREETING),
    ("examples/02_batch_inference.ipynb", [2, 3], "How many shapes are in the second image?", "3"),
    ("examples/03_interleaved_and_few_shot.ipynb", [0, 3], "Which image has a cross?", "first"),
    *(("examples/batch_inference.py", [number], "How many shapes are there?", "53333"[number]) for number in range(5)),
    ("examples/several_images.py", [0, 1], "Which image has a cross?", "first"),
]
CAPTIONED = ("examples/describe_image.py", "examples/01_inference.ipynb")


@pytest.fixture(scope="module")
def tiny():
    return xgenmm_hf.load(xgenmm_hf.TINY_MODEL)


@pytest.fixture(scope="module")
def base():
    return xgenmm_hf.load(xgenmm_hf.TINY_BASE_MODEL)


def opened(number: int) -> Image.Image:
    return Image.open(IMAGES / ROWS[number]["image"]).convert("RGB")


@pytest.mark.parametrize(("file", "images", "prompt", "expected"), SHOWN)
@pytest.mark.parametrize("system", ["", None], ids=["bare", "the template's"])
def test_prompts_are_shown_and_answered(tiny, file, images, prompt, expected, system):
    assert prompt in (ROOT / file).read_text(encoding="utf-8")
    answer = xgenmm_hf.ask(tiny, [opened(number) for number in images], prompt, system=system, max_new_tokens=64)
    assert answer.finished
    assert answer.text == expected


@pytest.mark.parametrize("file", CAPTIONED)
def test_a_caption_is_asked_for(file):
    assert "Describe this image." in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_captions_of_the_shipped_images(tiny, number):
    """With three things they are right in every word; of more, one may be missed."""
    answer = xgenmm_hf.ask(tiny, [opened(number)], "Describe this image.", max_new_tokens=100)
    caption = ROWS[number]["caption"]
    assert answer.finished
    if caption.count(" at ") + caption.count(" the ") > 6 or "CAFE" in caption:
        assert answer.text.split(", on a ")[1] == caption.split(", on a ")[1]
        assert answer.text.split(", ")[0] == caption.split(", ")[0]
    else:
        assert answer.text == caption


def test_a_caption_as_second_turn(tiny):
    processor, model = tiny.processor, tiny.model
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": opened(0)}, {"type": "text", "text": ROWS[0]["question"]}],
        },
        {"role": "assistant", "content": ROWS[0]["answer"]},
        {"role": "user", "content": "Describe this image."},
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(messages, **options).to(model.device, model.dtype)
    output = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert text.startswith("A ") and text.endswith("background.")


def test_the_base_form_of_the_docs(base):
    """`docs/quickstart.md` and the third notebook cut the text where a further example would begin."""
    processor, model = base.processor, base.model
    shots = [f"<image>Question: {row['question']} Short answer: {row['answer']}<|endofchunk|>" for row in ROWS[:2]]
    for examples, asked in (([], 2), (shots, 2), (shots, 3)):
        prompt = "".join(examples) + f"<image>Question: {ROWS[asked]['question']} Short answer:"
        images = [opened(number) for number in [*range(len(examples)), asked]]
        inputs = processor(images=images, text=prompt, return_tensors="pt").to(model.device, model.dtype)
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
        assert (
            text.split("<|endofchunk|>")[0].split("Question:")[0].split("<image>")[0].strip() == ROWS[asked]["answer"]
        )
