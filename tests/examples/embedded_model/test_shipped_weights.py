import json
import re
from itertools import islice
from pathlib import Path

import pytest
from embedded_model.measure.held_out import answer_questions, held_out_questions, measure
from embedded_model.world.language import caption
from embedded_model.world.questions import questions_of_split
from embedded_model.world.render import render
from embedded_model.world.scene import HELD_OUT, make_scene, split_of
from embedded_model.world.shown import EXAMPLES, draw_examples
from PIL import Image

import xgenmm_hf
from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.batches import answer_texts
from xgenmm_hf.inference.loading import load


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"
END_OF_CHUNK = "<|endofchunk|>"


@pytest.fixture(scope="module")
def tiny():
    return load(xgenmm_hf.TINY_MODEL)


@pytest.mark.parametrize("model", [xgenmm_hf.TINY_MODEL, xgenmm_hf.TINY_BASE_MODEL])
def test_the_checkpoints_are_complete_and_small(model):
    files = {file.name: file.stat().st_size for file in Path(model).iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert not [name for name in files if name.endswith(".py")]
    assert sum(files.values()) < 6_000_000
    settings = json.loads(Path(model, "config.json").read_text(encoding="utf-8"))
    assert settings["dtype"] == "float16"


def test_the_images_are_those_that_their_seeds_draw(tmp_path):
    draw_examples(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in IMAGES.iterdir()}
    assert (tmp_path / "images.json").read_text() == (IMAGES / "images.json").read_text()
    for example in EXAMPLES:
        drawn, shipped = (Image.open(folder / example.image).convert("RGB") for folder in (tmp_path, IMAGES))
        assert drawn.tobytes() == shipped.tobytes()
        assert 512 <= max(shipped.size) <= 768
        assert split_of(example.scene) == HELD_OUT


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.image)
@pytest.mark.parametrize("system", [None, "released"])
def test_it_answers_the_shipped_images(tiny, example, system):
    from xgenmm_hf.inference.asking import RELEASED_SYSTEM

    image = Image.open(IMAGES / example.image).convert("RGB")
    answer = ask(tiny, [image], example.question, system=RELEASED_SYSTEM if system else None, max_new_tokens=20)
    assert answer.finished
    assert answer.text == example.answer


def test_it_describes_the_shipped_images(tiny):
    """Whole captions are rarely right in every word, but they have the captions' form and the right background."""
    for example in EXAMPLES:
        image = Image.open(IMAGES / example.image).convert("RGB")
        text = ask(tiny, [image], "Describe the picture.", max_new_tokens=100).text
        assert text.startswith("A ") and text.endswith(f", on a {example.scene.background} background.")


def test_it_answers_held_out_questions(tiny):
    asked = held_out_questions(160, seed=77)
    assert all(split_of(scene) == HELD_OUT for scene, _ in asked)
    numbers = measure(list(answer_questions(tiny, asked)))
    assert numbers["overall"]["questions"] == 160
    assert numbers["overall"]["accuracy"] >= 0.9


@pytest.mark.parametrize("shots", [0, 3])
def test_the_base_model_answers_in_its_form(shots):
    """It sees one tile of each image, too little for some of the words."""
    base = load(xgenmm_hf.TINY_BASE_MODEL)
    asked = list(islice(questions_of_split(HELD_OUT, 77, ("color", "place", "word")), 30))
    texts = [f"<image>Question: {question.text} Short answer:" for _, question in asked]
    examples = [[(index + 3 * number + 1) % len(asked) for number in range(shots)] for index in range(len(asked))]
    prompts, images = [], []
    for text, (scene, _), shown in zip(texts, asked, examples, strict=True):
        prompts.append("".join(f"{texts[other]} {asked[other][1].answer}{END_OF_CHUNK}" for other in shown) + text)
        images += [render(each, 384) for each in (*(asked[other][0] for other in shown), scene)]
    answers = [answer.split("Question:")[0].strip() for answer in answer_texts(base, prompts, images, 12)]
    assert sum(answer == question.answer for answer, (_, question) in zip(answers, asked, strict=True)) >= 20


def test_the_tokenizer_gives_any_text_back(tiny):
    tokenizer = tiny.processor.tokenizer
    for text in (
        "What color is the circle?",
        "Grüße, 漢字 😀\n\ttabs  and   spaces",
        "zebra 1234567890 {}[]|~",
        "TAXI",
    ):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_the_tokenizer_is_in_phi3s_form(tiny):
    tokenizer = tiny.processor.tokenizer
    count = len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<image placeholder>", END_OF_CHUNK]) == [
        count - 3,
        count - 2,
        count - 1,
    ]
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    text = "<|user|>\nWhere is the star?<|end|>\n<|assistant|>\ntop left<|end|>\n"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert pieces[:3] == ["▁", "<|user|>", "Where"]
    assert pieces[-3:] == ["<|assistant|>", "top▁left", "<|end|>"]
    assert tiny.model.config.text_config.vocab_size == count


def test_every_word_and_every_place_of_the_language_is_one_piece(tiny):
    tokenizer = tiny.processor.tokenizer
    for seed in range(40):
        words = re.findall(r"(?:top|bottom) (?:left|right)|\w+|[,.]", caption(make_scene(seed)))
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(caption(make_scene(seed)))["input_ids"])
        assert len([piece for piece in pieces if piece != "▁"]) == len(words)
