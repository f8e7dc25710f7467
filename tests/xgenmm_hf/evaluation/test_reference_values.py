import math

from xgenmm_hf.evaluation.metrics import METRICS, score
from xgenmm_hf.evaluation.reference_values import benchmark_of, published, reference_values
from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks import KINDS


def test_every_value_has_a_source_and_stands_once():
    values = reference_values()
    assert all(one.source and one.address.startswith("https://") and one.note for one in values)
    assert all(math.isfinite(one.value) and one.value > 0 for one in values)
    keys = [(one.model, one.benchmark, one.shots) for one in values]
    assert len(set(keys)) == len(keys)


def test_measures_are_those_of_our_metrics():
    sample = Sample("1", "?", (), ("yes", "yes"), options={"label": "yes", "safe": True})
    unsafe = Sample("2", "?", (), ("yes", "yes"), options={"label": "yes", "safe": False})
    known = {"cider"}
    for metric in set(METRICS) - {"cider"}:
        known |= set(score(metric, [sample, unsafe], ["x", "x"]).overall)
    assert {one.measure for one in reference_values()} - {""} <= known


def test_published_numbers_are_in_our_unit():
    found = published("VQAv2", shots=4)
    assert {"model": "xgen-mm-phi3-mini-base-r-v1.5", "metric": "vqa_accuracy", "value": 0.663,
            "source": "model card of Salesforce/xgen-mm-phi3-mini-base-r-v1.5"} in found  # fmt: skip
    assert {one["value"] for one in published("coco_captions", shots=8)} == {1.098, 1.121}
    assert [one["value"] for one in published("vlguard")] == [0.052]
    assert published("vqav2", shots=16) == []
    assert published("my own task") == []


def test_task_kinds_find_their_benchmarks():
    assert benchmark_of("COCO") == "coco_captions"
    assert benchmark_of("Mantis-Eval") == "mantis_eval"
    assert all(published(kind) for kind in set(KINDS) - {"docvqa", "multi_image", "exact"})
