"""The dtype that `dtype="auto"` computes in."""

import timeit
from functools import cache, partial

import torch
from transformers import PretrainedConfig


NARROW = 1024
"""Language models narrower than this stay in float32 on a CPU: rounding costs more there than multiplying."""
WORTH_IT = 1.3
"""How much faster than float32 a CPU must multiply bfloat16 for it to be chosen."""


def choose_dtype(stored: torch.dtype, text_config: PretrainedConfig, device: torch.device) -> tuple[torch.dtype, str]:
    """Chooses the dtype to compute in."""
    if device.type != "cpu":
        return stored, f"{name_of(stored)} (the checkpoint's own)"
    if text_config.hidden_size < NARROW:
        return torch.float32, "float32 (a small model on a CPU)"
    if not multiplies_bfloat16():
        return torch.float32, "float32 (this CPU has no bfloat16 multiplication; bfloat16 takes half the memory)"
    ratio = bfloat16_gain(text_config.hidden_size, getattr(text_config, "intermediate_size", text_config.hidden_size))
    if ratio < WORTH_IT:
        return torch.float32, f"float32 (this CPU multiplies bfloat16 only {ratio:.1f} times as fast)"
    return torch.bfloat16, f"bfloat16 (this CPU multiplies it {ratio:.1f} times as fast as float32)"


def name_of(dtype: torch.dtype) -> str:
    """Returns a dtype's name without its module."""
    return str(dtype).removeprefix("torch.")


def multiplies_bfloat16() -> bool:
    """Tells whether this CPU has instructions that multiply bfloat16 matrices: AMX or AVX512-BF16."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # PyTorch has no public ones
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@cache
def bfloat16_gain(width: int, inner: int, rows: int = 128, runs: int = 3) -> float:
    """Measures how much faster a matrix multiplication is in bfloat16 than in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight, tokens = torch.ones(inner, width, dtype=dtype), torch.ones(rows, width, dtype=dtype)
        multiply = partial(torch.nn.functional.linear, tokens, weight)
        seconds[dtype] = min(timeit.repeat(multiply, number=1, repeat=runs + 1))  # the first one also prepares
    return seconds[torch.float32] / seconds[torch.bfloat16]
