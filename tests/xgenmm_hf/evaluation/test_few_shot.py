"""In-context prompts of the base models: their format, and which examples are chosen."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.data.image_refs import image_key
from xgenmm_hf.evaluation import few_shot
from xgenmm_hf.evaluation.few_shot import PROTOCOLS, Examples, cut_answer, example_answer
from xgenmm_hf.evaluation.prompting import AskSettings, prepare, render_sample
from xgenmm_hf.evaluation.runner import run_task
from xgenmm_hf.evaluation.samples import Sample, Task
from xgenmm_hf.inference.loading import load


BASE = AskSettings(form="base")
OURS, FLAMINGO = PROTOCOLS["xgenmm"], PROTOCOLS["openflamingo"]
IMAGES = sorted((Path(TINY_MODEL).parent / "images").glob("*.png"))


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, dtype="float32", device="cpu")


def sample(number: int, path: str | Path | None = None, **fields) -> Sample:
    ref = {"bytes": None, "path": str(path or f"images/{number}.png")}
    return Sample(f"s{number}", f"What is {number}?", (ref,), fields.get("references", (f"thing {number}",)))


@pytest.fixture
def support(tmp_path) -> list[Sample]:
    """Twelve readable images of different greys."""
    for number in range(12):
        Image.new("L", (40, 40), 20 * number).save(tmp_path / f"{number}.png")
    return [sample(number, tmp_path / f"{number}.png") for number in range(12)]


def test_the_published_format(loaded):
    query, shots = sample(1), [sample(2), sample(3)]
    vqa = render_sample(loaded.processor, query, shots, "vqa", BASE)
    assert vqa == (
        "<image>Question: What is 2? Short answer: thing 2<|endofchunk|>"
        "<image>Question: What is 3? Short answer: thing 3<|endofchunk|>"
        "<image>Question: What is 1? Short answer:"
    )
    captions = [Sample(f"c{number}", "", ({"path": "a.png"},), (f"A {number}.", "Else.")) for number in range(3)]
    caption = render_sample(loaded.processor, captions[0], captions[1:], "caption", BASE)
    assert caption == "<image>A 1.<|endofchunk|><image>A 2.<|endofchunk|><image>"
    assert render_sample(loaded.processor, query, [], "vqa", BASE) == "<image>Question: What is 1? Short answer:"


def test_several_images_stand_before_their_text(loaded):
    two = Sample("two", "Same?", ({"path": "a"}, {"path": "b"}), ("no",))
    assert render_sample(loaded.processor, two, [two], "chat", BASE) == (
        "<image><image>Same? no<|endofchunk|><image><image>Same?"
    )


def test_control_tokens_in_a_question_stay_text(loaded):
    query = Sample("q", "What is <image> and <|endofchunk|>?", ({"path": str(IMAGES[0])},), ("x",))
    for form in ("base", "chat"):
        text = render_sample(loaded.processor, query, [], "vqa", AskSettings(form=form))
        ids = loaded.processor.tokenizer(text)["input_ids"]
        assert ids.count(loaded.processor.image_token_id) == 1
        assert loaded.model.config.end_of_chunk_token_id not in ids


def test_the_measured_length_is_the_real_one(loaded):
    query, shot = (sample(number, path) for number, path in enumerate(IMAGES[:2]))
    for form, shots in (("base", [shot]), ("chat", [])):
        for mode in (None, "none"):
            text = render_sample(loaded.processor, query, shots, "vqa", AskSettings(form=form))
            asked = prepare(loaded.processor, query, shots, text, {}, mode)
            images = [Image.open(image["path"]) for image in asked.images]
            options = {} if mode is None else {"image_aspect_ratio": mode}
            inputs = loaded.processor(images=images, text=text, **options)
            assert asked.num_tokens == len(inputs["input_ids"][0])


def test_the_key_changes_with_whatever_decides_the_answer(loaded, support):
    def key(query=support[0], shots=(support[1],), text="<image><image>", **identity):
        return prepare(loaded.processor, query, shots, text, identity).key

    keys = [key(), key(text="<image><image>a"), key(shots=(support[2],)), key(dtype="b"), key(query=support[3])]
    assert len(set(keys)) == 5
    assert key() == keys[0]


def test_the_answer_of_an_example():
    assert example_answer(sample(1, references=("a", "b", "b", "a")), "vqa") == "a"
    assert example_answer(sample(1, references=("a", "b", "b")), "vqa") == "b"
    assert example_answer(sample(1, references=("a", "b", "b")), "caption") == "a"
    assert example_answer(sample(1, references=()), "vqa") is None


def test_a_continuation_ends_where_the_next_example_begins():
    assert cut_answer("red. Question: Which? Short answer: no", "vqa", OURS) == "red."
    assert cut_answer("Question: Which?", "caption", OURS) == "Question: Which?"
    assert cut_answer("red, blue Question:Which?", "vqa", FLAMINGO) == "red"
    assert cut_answer('A "dog".Output:A cat', "caption", FLAMINGO) == "A dog."


def test_openflamingos_prompts(loaded):
    query, shots = replace(sample(1), references=("a", "b", "b")), [sample(2), sample(3, references=("x", "y", "y"))]
    asked = AskSettings(protocol="openflamingo", shots=2)
    assert render_sample(loaded.processor, query, shots, "vqa", asked) == (
        "<image>Question:What is 2? Short answer:thing 2<|endofchunk|>\n"
        "<image>Question:What is 3? Short answer:x<|endofchunk|>\n"
        "<image>Question:What is 1? Short answer:"
    )
    captions = [Sample(f"c{number}", "", ({"path": "a.png"},), (f"A {number}. ", "Else.")) for number in range(2)]
    assert render_sample(loaded.processor, captions[0], captions[1:], "caption", asked) == (
        "<image>Output:A 1.<|endofchunk|>\n<image>Output:"
    )
    assert (asked.answer_tokens("vqa"), asked.answer_tokens("caption")) == (5, 20)


def test_openflamingo_shows_two_examples_without_images_at_no_shots(loaded, support, tmp_path, monkeypatch):
    options = []
    generate = loaded.model.generate
    monkeypatch.setattr(loaded.model, "generate", lambda **given: options.append(given) or generate(**given))
    task = Task("t", "vqav2", support[:3], [], "exact", "vqa")
    run = run_task(loaded, task, tmp_path / "out", AskSettings(protocol="openflamingo", limit=1))
    (one,) = run.answered
    assert len(one.shots) == 2
    assert one.prompt.count("<image>") == 1
    assert one.prompt.count("<|endofchunk|>\n") == 2
    assert (options[0]["num_beams"], options[0]["length_penalty"], options[0]["max_new_tokens"]) == (3, 0.0, 5)


def test_stems_of_ok_vqa_come_from_openflamingos_code(tmp_path, monkeypatch):
    few_shot._stemmer.cache_clear()
    with pytest.raises(ValueError, match="pip install --no-deps open-flamingo nltk"):
        cut_answer("riding", "vqa", FLAMINGO, "okvqa")
    package = tmp_path / "open_flamingo" / "eval"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    code = "def postprocess_ok_vqa_generation(text):\n    return text.replace('riding', 'ride')\n"
    (package / "ok_vqa_utils.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert cut_answer("riding, fast Question", "vqa", FLAMINGO, "okvqa") == "ride, fast"
    assert cut_answer("riding", "vqa", OURS, "okvqa") == "riding"


def test_more_shots_begin_with_those_of_fewer(support):
    four, eight = (Examples(support, count, "vqa", seed=3).choose(support[5]) for count in (4, 8))
    assert eight[:4] == four


@pytest.mark.parametrize("count", [4, 8])
def test_random_examples_depend_on_seed_and_query_alone(support, count):
    chosen = [one.id for one in Examples(support, count, "vqa", seed=3).choose(support[5])]
    other = Examples(support, count, "vqa", seed=3)
    other.choose(support[0])
    assert [one.id for one in other.choose(support[5])] == chosen
    assert len(set(chosen)) == count
    assert "s5" not in chosen
    assert [one.id for one in Examples(support, count, "vqa", seed=4).choose(support[5])] != chosen
    assert [one.id for one in other.choose(support[6])] != chosen


def test_every_other_sample_may_be_chosen(support):
    examples = Examples(support, 11, "vqa")
    assert {one.id for one in examples.choose(support[2])} == {one.id for one in support} - {"s2"}


def test_other_questions_about_the_same_image_are_passed_over(support):
    twin = Sample("twin", "Else?", support[0].images, ("x",))
    chosen = Examples([*support[:3], twin], 2, "vqa").choose(support[0])
    assert {one.id for one in chosen} == {"s1", "s2"}
    with pytest.raises(ValueError, match="only 2 of 3 examples are left"):
        Examples([*support[:3], twin], 3, "vqa").choose(support[0])


def test_unreadable_examples_are_passed_over_and_reported_once(support, tmp_path):
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"nothing")
    examples = Examples(support, 9, "vqa")
    for number in (0, 3):
        assert {"s1", "s2"}.isdisjoint(one.id for one in examples.choose(support[number]))
    assert sorted(problem.where for problem in examples.problems) == ["sample s1", "sample s2"]


def test_a_support_that_is_too_small(support):
    with pytest.raises(ValueError, match="more than 4 samples with answers; there are 3"):
        Examples([*support[:3], sample(20, references=())], 4, "vqa")


def test_keys_tell_images_apart(tmp_path):
    one, other = Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "red")
    assert image_key(one) == image_key(one.copy()) != image_key(other)
    assert image_key({"digest": "a", "path": "x"}) == image_key({"digest": "a", "path": "y"})
    file = tmp_path / "a.png"
    before = image_key({"bytes": None, "path": str(file)})
    file.write_bytes(b"a")
    written = image_key({"bytes": None, "path": str(file)})
    assert written != before
    os.utime(file, ns=(1, 1))
    assert image_key({"bytes": None, "path": str(file)}) not in (before, written)
