"""Choosing tokens."""

import pytest
import torch

from xgenmm_hf.serving.sampling import Sampler, Sampling


CPU = torch.device("cpu")


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-12])
def test_hardly_any_temperature_gives_the_likeliest_token(temperature):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 30
    sampler = Sampler(Sampling(temperature=temperature, top_p=0.9, top_k=5, seed=0), CPU)
    assert {sampler.pick(logits) for _ in range(20)} == {int(logits.argmax())}


def test_a_usual_temperature_draws_others_too():
    sampler = Sampler(Sampling(temperature=1.0, seed=0), CPU)
    assert len({sampler.pick(torch.zeros(50)) for _ in range(20)}) > 1
