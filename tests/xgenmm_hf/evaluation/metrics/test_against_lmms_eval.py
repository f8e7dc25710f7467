"""Our metrics on random answers give what lmms-eval's own code gives; skipped where lmms-eval is not installed."""

import random
from importlib.util import find_spec

import pytest

from xgenmm_hf.evaluation.metrics.vqa import textvqa_accuracy, vqa_accuracy


if find_spec("lmms_eval") is None:
    pytest.skip("lmms-eval is not installed", allow_module_level=True)

WORDS = (
    *(
        "a",
        "the",
        "two",
        "ten",
        "none",
        "dog",
        "Dog",
        "1,000",
        "3.5",
        "dont",
        "don't",
        "theyre",
        "red",
        "bus.",
        "u.s.",
    ),
    *("left/right", "blue-green", "(x)", "yes,", "no!", "10", "it's", "ice cream", "?", "50%"),
)


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))


def test_vqa_accuracy():
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results_val

    rng = random.Random(0)
    for _ in range(2000):
        texts = [random_text(rng) for _ in range(3)]
        references = rng.choices(texts, k=10)
        answer = rng.choice(texts)
        answers = [{"answer_id": number, "answer": text} for number, text in enumerate(references)]
        theirs = vqav2_process_results_val({"question_id": 1, "answers": answers}, [answer])["exact_match"]
        # lmms-eval normalises also where all annotators agree; the official code does not.
        if len(set(references)) > 1:
            assert vqa_accuracy(answer, references) == pytest.approx(theirs), (answer, references)


def test_textvqa_accuracy():
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    rng = random.Random(1)
    for _ in range(2000):
        texts = [random_text(rng) for _ in range(rng.randint(1, 3))]
        references = rng.choices(texts, k=10)
        answer = rng.choice(texts)
        theirs = textvqa_process_results({"question_id": 1, "answers": list(references)}, [answer])["exact_match"]
        assert textvqa_accuracy(answer, references) == pytest.approx(theirs), (answer, references)
