"""The order of rows: every row once, batches of one modality and length, the same on every rank and after a stop."""

import random

import forked
import pytest
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SkipBatchSampler, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from transformers import TrainerState

from xgenmm_hf.training.sft import EpochOfSampler, ModalityLengthSampler


def drawn_rows(num_rows: int, seed: int = 0) -> tuple[list[int], list[str]]:
    rng = random.Random(seed)
    modalities = [rng.choice(["text", "image", "image", "images"]) for _ in range(num_rows)]
    shortest = {"text": 5, "image": 400, "images": 900}
    return [shortest[name] + rng.randint(0, 300) for name in modalities], modalities


def batches_of(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.sampled_from(["text", "image", "images"])), max_size=60),
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_every_row_is_given_once(rows, batch_size, epoch, num_sorted):
    lengths, modalities = [row[0] for row in rows], [row[1] for row in rows]
    sampler = ModalityLengthSampler(lengths, modalities, batch_size, seed=3, num_sorted_batches=num_sorted)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(rows))) and len(sampler) == len(rows)
    num_full = sum(modalities.count(name) // batch_size for name in set(modalities))
    for batch in batches_of(order, batch_size)[:num_full]:
        assert len(batch) == batch_size and len({modalities[row] for row in batch}) == 1


def test_rows_of_a_batch_are_about_equally_long():
    lengths, modalities = drawn_rows(4000)
    order = list(ModalityLengthSampler(lengths, modalities, 16, seed=0))
    spreads = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches_of(order, 16)
    ]
    assert sorted(spreads)[len(spreads) // 2] < 20


def test_batches_are_shuffled_and_every_epoch_is_another():
    lengths, modalities = drawn_rows(2000)
    sampler = ModalityLengthSampler(lengths, modalities, 8, seed=0)
    first = list(sampler)
    kinds = [modalities[batch[0]] for batch in batches_of(first, 8)]
    assert len(set(kinds[:20])) == 3
    num_full = sum(modalities.count(name) // 8 for name in set(modalities))
    assert max(lengths[row] for row in first[:8]) == max(lengths[row] for row in first[: 8 * num_full])
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second and {frozenset(b) for b in batches_of(first, 8)} != {
        frozenset(b) for b in batches_of(second, 8)
    }
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(ModalityLengthSampler(lengths, modalities, 8, seed=1)) != first


@pytest.mark.slow
def test_another_process_finds_the_same_order():
    lengths, modalities = drawn_rows(300)
    code = (
        "from xgenmm_hf.training.sft import ModalityLengthSampler as S;"
        f"s = S({lengths}, {modalities}, 8, seed=5); s.set_epoch(2); print(list(s))"
    )
    sampler = ModalityLengthSampler(lengths, modalities, 8, seed=5)
    sampler.set_epoch(2)
    found = forked.run(["-c", code])
    assert found.stdout.strip() == str(list(sampler))


def test_ranks_share_a_batch_of_one_modality():
    lengths, modalities = drawn_rows(400)
    sampler = ModalityLengthSampler(lengths, modalities, 8, seed=0)
    ranks = [list(BatchSamplerShard(BatchSampler(sampler, 4, False), 2, rank)) for rank in range(2)]
    num_full = sum(modalities.count(name) // 8 for name in set(modalities))
    for one, other in list(zip(*ranks, strict=True))[:num_full]:
        assert len({modalities[row] for row in one + other}) == 1
    assert {row for rank in ranks for batch in rank for row in batch} == set(range(400))


def test_a_run_goes_on_in_the_order_of_its_epoch():
    lengths, modalities = drawn_rows(100)
    sampler = ModalityLengthSampler(lengths, modalities, 4, seed=0)
    sampler.set_epoch(2)
    expected = list(BatchSampler(sampler, 4, False))
    resumed = ModalityLengthSampler(lengths, modalities, 4, seed=0)
    EpochOfSampler(resumed).on_train_begin(None, TrainerState(epoch=2.28), None)
    assert list(SkipBatchSampler(BatchSampler(resumed, 4, False), 7)) == expected[7:]
    EpochOfSampler(resumed).on_train_begin(None, TrainerState(), None)
    assert resumed.epoch == 0


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_loader_that_goes_on_in_an_epoch_keeps_its_order(num_ranks):
    lengths, modalities = drawn_rows(96)

    def loader() -> tuple[ModalityLengthSampler, DataLoaderShard]:
        sampler = ModalityLengthSampler(lengths, modalities, 4 * num_ranks, seed=0)
        shard = BatchSampler(sampler, 4, False)
        shard = BatchSamplerShard(shard, num_ranks, 0) if num_ranks > 1 else shard
        return sampler, DataLoaderShard(range(96), batch_sampler=shard, collate_fn=list)

    _, whole = loader()
    whole.set_epoch(2)
    expected = list(whole)
    sampler, resumed = loader()
    EpochOfSampler(sampler).on_train_begin(None, TrainerState(epoch=2.4), None)
    resumed = skip_first_batches(resumed, 5)
    resumed.set_epoch(2)
    assert list(resumed) == expected[5:]
