"""Mixtures by number of samples and by weights."""

import json
from collections import Counter

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from hypothesis import given
from hypothesis import strategies as st

from xgenmm_hf.data.mixture import load_mixture, read_mixture, sample_indices


@pytest.fixture
def folder(tmp_path):
    """Two chat sets of 10 and 4 records and one of captions."""
    for name, number in (("a", 10), ("b", 4)):
        turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
        records = [{"id": f"{name}{index}", "image": "coco/1.jpg", "conversations": turns} for index in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "captions.jsonl").write_text('{"image": "1.jpg", "caption": "A bus."}\n')
    return tmp_path


def load(folder, text, **options):
    (folder / "mixture.yaml").write_text(text)
    return load_mixture(folder / "mixture.yaml", cache_dir=folder / "cache", **options)


def ids(dataset):
    return [row["id"].split("@")[0] for row in dataset]


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 5), st.text(max_size=5))
def test_every_row_is_taken_whole_times_and_a_rest_once(size, samples, seed, name):
    chosen = sample_indices(size, samples, seed, name)
    counts = np.bincount(chosen, minlength=size)
    assert len(chosen) == samples
    assert set(counts) <= {samples // size, samples // size + 1}
    assert (chosen == sample_indices(size, samples, seed, name)).all()


def test_numbers_of_samples(folder):
    text = "data: {a.jsonl: 3, b.jsonl: 9}\nroots: {coco: images}\n"
    mixture = load(folder, text)
    counts = Counter(ids(mixture.dataset))
    assert [source.samples for source in mixture.sources] == [3, 9]
    assert sum(counts[f"a{index}"] for index in range(10)) == 3
    assert all(counts[f"b{index}"] >= 2 for index in range(4))
    assert mixture.dataset[0]["images"] == [{"bytes": None, "path": str(folder / "images" / "1.jpg")}]
    again = load(folder, text)
    assert ids(again.dataset) == ids(mixture.dataset)
    others = {tuple(ids(load(folder, text, seed=seed).dataset)) for seed in range(4)}
    assert len(others) > 1


def test_another_file_changes_no_draw(folder):
    alone = load(folder, "data: {a.jsonl: 3}\nroots: {coco: p}\n")
    both = load(folder, "data: {b.jsonl: all, a.jsonl: {samples: 3, format: llava}}\nroots: {coco: p}\n")
    assert ids(both.dataset) == ["b0", "b1", "b2", "b3", *ids(alone.dataset)]
    assert len(load(folder, "data: {a.jsonl: 0, b.jsonl: all}\nroots: {coco: p}\n").dataset) == 4


WEIGHTS = "datasets:\n  - {path: a.jsonl, weight: 3}\n  - {path: [b.jsonl], weight: 1}\nseed: 1\n"


@pytest.mark.parametrize("streaming", [False, True])
def test_weights(folder, streaming):
    mixture = load(folder, WEIGHTS, streaming=streaming)
    assert [source.weight for source in mixture.sources] == [0.75, 0.25]
    drawn = ids(mixture.dataset)
    assert set(drawn) == {f"a{index}" for index in range(10)} | {f"b{index}" for index in range(4)}
    assert drawn == ids(load(folder, WEIGHTS, streaming=streaming).dataset)
    assert drawn != ids(load(folder, WEIGHTS, streaming=streaming, seed=2).dataset)
    first = load(folder, WEIGHTS + "stopping: first_exhausted\nshuffle_buffer: 0\n", streaming=streaming)
    assert max(Counter(ids(first.dataset)).values()) == 1
    alone = load(folder, "datasets: [{path: b.jsonl, weight: 2}]\nshuffle_buffer: 0\n", streaming=streaming)
    assert ids(alone.dataset) == ["b0", "b1", "b2", "b3"]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_stream_share_the_rows(folder, world):
    text = WEIGHTS + "stopping: first_exhausted\n"
    for shards in (1, world):
        parts = []
        for rank in range(world):
            mixture = load(folder, text, streaming=True, num_shards=shards)
            assert mixture.dataset.num_shards == shards
            parts.append(ids(split_dataset_by_node(mixture.dataset, rank, world)))
        drawn = [name for part in parts for name in part]
        assert len(drawn) == len(set(drawn))
        assert all(parts)


def test_kinds_do_not_mix(folder):
    with pytest.raises(
        ValueError, match=r"mixes kinds of rows \(a gives chat rows, captions gives pretraining rows\)"
    ):
        load(folder, "data: {a.jsonl: 3, captions.jsonl: 1}\n")


def test_numbers_of_samples_are_not_streamed(folder):
    with pytest.raises(ValueError, match="stream a mixture by weights"):
        load(folder, "data: {a.jsonl: 3}\n", streaming=True)


def test_malformed_sources_stop_unless_allowed(folder):
    with (folder / "b.jsonl").open("a") as file:
        file.write("{}\n")
    text = "data: {b.jsonl: all}\n"
    with pytest.raises(ValueError, match="1 of 5 records of b are malformed"):
        load(folder, text)
    assert len(load(folder, text, max_rejected=0.3).dataset) == 4
    assert len(load(folder, text + "max_rejected: 0.2\n").dataset) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data: [", "is not YAML"),
        ("[]", "either `data`"),
        ("roots: {}", "either `data`"),
        ("data: {a: 1}\ndatasets: []", "either `data`"),
        ("data: {a: 1}\nsede: 3", "unknown key 'sede'"),
        ("data: {}", "data is {}; it must be a mapping of files"),
        ("data: {a: -1}", "samples is -1; it must be a whole number or `all`"),
        ("data: {a: true}", "samples is True"),
        ("data: {a: 1.5}", "samples is 1.5"),
        ("data: {a: 0}", "every file of `data` has 0"),
        ("data: {a: {samples: 1, weight: 2}}", "unknown key 'weight'"),
        ("data: {a: {samples: 1, options: 2}}", "a: options is 2; it must be a mapping"),
        ("data: {a: 1}\nroots: [b]", "roots is .'b'.; it must be a mapping"),
        ("data: {a: 1}\nseed: x", "seed is 'x'"),
        ("data: {a: 1}\nseed: true", "seed is True"),
        ("data: {a: 1}\nmax_rejected: 2", "max_rejected is 2"),
        ("data: {a: 1}\nstopping: all_exhausted", "unknown key 'stopping'"),
        ("datasets: {a: 1}", "datasets is .*; it must be a list"),
        ("datasets: [{path: a}]", "weight is None; it must be a positive number"),
        ("datasets: [{path: a, weight: 0}]", "weight is 0"),
        ("datasets: [{path: a, weight: .inf}]", "weight is inf"),
        ("datasets: [{weight: 1}]", "path None"),
        ("datasets: [{path: a, weight: 1}]\nstopping: never", "stopping is 'never'"),
    ],
)
def test_malformed_files(tmp_path, text, reason):
    (tmp_path / "mixture.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_mixture(tmp_path / "mixture.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="no mixture file at"):
        read_mixture(tmp_path / "mixture.yaml")
