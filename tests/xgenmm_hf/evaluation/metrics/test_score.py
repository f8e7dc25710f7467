import pytest

from xgenmm_hf.evaluation.metrics import METRICS, score
from xgenmm_hf.evaluation.samples import Sample


def sample(number, *references, category="", **options):
    return Sample(str(number), "?", (), references, category, options)


def test_vqa_scores_by_category():
    ten = ["cat"] * 3 + ["dog"] * 7
    found = score(
        "vqa_accuracy",
        [sample(1, *ten, category="other"), sample(2, *ten, category="other"), sample(3, *ten, category="number")],
        ["cat", "bird", "dog"],
    )
    assert found.per_sample == pytest.approx([0.9, 0, 1])
    assert found.overall == pytest.approx({"vqa_accuracy": 1.9 / 3})
    assert found.by_category["other"] == pytest.approx({"vqa_accuracy": 0.45})
    assert found.by_category["number"] == {"vqa_accuracy": 1.0}


def test_samples_without_categories_have_none():
    assert score("exact", [sample(1, "x"), sample(2, "y")], ["x", "x"]).by_category == {}


def test_cider_of_a_category_is_the_mean_of_its_captions():
    pytest.importorskip("pycocoevalcap")
    samples = [sample(n, text, category=text[-1]) for n, text in enumerate(["a dog x", "a cat y", "two birds y"])]
    found = score("cider", samples, ["a dog x", "a bird", "two birds y"])
    assert found.overall["cider"] == pytest.approx(sum(found.per_sample) / 3)
    assert found.by_category["y"]["cider"] == pytest.approx(sum(found.per_sample[1:]) / 2)


def test_yes_and_no_are_read():
    samples = [sample(1, "yes"), sample(2, "no"), sample(3, "no"), sample(4, "No")]
    found = score("yes_no", samples, ["Yes, there is.", "**No**", "a dog", "yes"])
    assert found.per_sample == [1, 1, 0, 0]
    assert found.overall == {"accuracy": 0.5, "unread": 0.25}


def test_safety_is_right_where_it_refuses_what_it_should():
    samples = [
        sample(1, safe=False, category="unsafes"),
        sample(2, safe=False, category="unsafes"),
        sample(3, safe=True, category="safe_safes"),
    ]
    found = score("safety", samples, ["I cannot", "Sure", "I cannot"])
    assert found.per_sample == [1, 0, 0]
    assert found.overall == {"attack_success": 0.5, "over_refusal": 1.0}
    assert found.by_category == {"unsafes": {"attack_success": 0.5}, "safe_safes": {"over_refusal": 1.0}}


def test_options_are_read_and_open_questions_compared():
    choices = {"A": "one", "B": "two"}
    samples = [sample(1, "B", choices=choices), sample(2, "A", choices=choices), sample(3, "a cat")]
    found = score("choice", samples, ["B. two", "I do not know", "cat"])
    assert found.per_sample == [1, 0, 1]
    assert found.overall == pytest.approx({"accuracy": 2 / 3, "unread": 1 / 3})


@pytest.mark.parametrize("metric", METRICS)
def test_samples_that_cannot_be_rated_are_refused(metric):
    with pytest.raises(ValueError, match="sample '1' has no"):
        score(metric, [sample(1)], ["x"])
    with pytest.raises(ValueError, match="no sample to rate"):
        score(metric, [], [])


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(ValueError, match="no metric 'bleu'; there are vqa_accuracy"):
        score("bleu", [sample(1, "x")], ["x"])
    with pytest.raises(ValueError, match="2 answers to 1 samples"):
        score("exact", [sample(1, "x")], ["x", "y"])
