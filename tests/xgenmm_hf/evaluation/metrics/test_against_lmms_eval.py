"""Our metrics on random answers give what lmms-eval's own code gives; skipped where lmms-eval is not installed."""

import random
from importlib.util import find_spec

import pytest

from xgenmm_hf.evaluation.metrics import probing_shares
from xgenmm_hf.evaluation.metrics.text import anls
from xgenmm_hf.evaluation.metrics.vqa import vqa_accuracy


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
        assert vqa_accuracy(answer, references, always_normalise=True) == pytest.approx(theirs), (answer, references)


def test_anls():
    from lmms_eval.api.metrics import anls as their_anls

    rng = random.Random(0)
    for _ in range(500):
        references = ["".join(rng.choices("abAB1 ", k=rng.randint(1, 8))).strip() or "a" for _ in range(3)]
        answer = "".join(rng.choices("abAB1", k=rng.randint(1, 8)))
        # Their lengths are those of the texts as they stand, ours those with single spaces.
        references = [" ".join(reference.split()) for reference in references]
        assert anls(answer, references) == pytest.approx(their_anls(references, [answer])["anls"])


def test_pope():
    from lmms_eval.tasks.pope import utils

    rng = random.Random(0)
    truth, said = ([rng.random() < 0.4 for _ in range(300)] for _ in range(2))
    words = {True: "yes", False: "no"}
    rows = [
        utils.pope_process_results({"question_id": number, "answer": words[is_there]}, [words[says]])["pope_accuracy"]
        for number, (is_there, says) in enumerate(zip(truth, said, strict=True))
    ]
    ours = probing_shares(truth, said)
    assert ours["accuracy"] == pytest.approx(utils.pope_aggregate_accuracy(rows))
    assert ours["precision"] == pytest.approx(utils.pope_aggregate_precision(rows))
    assert ours["recall"] == pytest.approx(utils.pope_aggregate_recall(rows))
    assert ours["f1"] == pytest.approx(utils.pope_aggregate_f1_score(rows))
