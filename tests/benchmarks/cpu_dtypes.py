"""One feed-forward matrix of the 4B model on one core of this CPU, in every form of weights that torch multiplies.

OMP_NUM_THREADS=1 python tests/benchmarks/cpu_dtypes.py

Prints a Markdown table: for one row (a decode step) and for many (a prompt) the ratio to float32. The clock is the
process's own CPU time, the fastest of several runs counts, and all forms take turns in one process.
"""

import time
from collections.abc import Callable

import torch


WIDTH, INNER = 3072, 8192
ROWS = (1, 128)
RUNS = 3
GROUP = 32  # inputs that share a scale in int4


def forms(rows: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Returns a function for each form of the weights: it multiplies (rows, WIDTH) by them."""
    weight, tokens = 0.02 * torch.randn(INNER, WIDTH), torch.randn(rows, WIDTH)
    half = {dtype: (tokens.to(dtype), weight.to(dtype)) for dtype in (torch.bfloat16, torch.float16)}
    scale = weight.abs().amax(1) / 127
    int8 = (weight / scale[:, None]).round().to(torch.int8)
    int4 = torch._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (INNER, WIDTH), dtype=torch.int32), 8)
    steps = torch.full((WIDTH // GROUP, INNER, 2), 0.01, dtype=torch.bfloat16)
    return {
        "float32": lambda: torch.nn.functional.linear(tokens, weight),
        "bfloat16": lambda: torch.nn.functional.linear(*half[torch.bfloat16]),
        "float16": lambda: torch.nn.functional.linear(*half[torch.float16]),
        "int8 weights, bfloat16": lambda: torch._weight_int8pack_mm(half[torch.bfloat16][0], int8, scale.bfloat16()),
        "int4 weights, bfloat16": lambda: torch._weight_int4pack_mm_for_cpu(
            half[torch.bfloat16][0], int4, GROUP, steps
        ),
    }


def seconds_of(rows: int) -> dict[str, float]:
    """Measures all forms in turns and returns the fastest run of each, in seconds of CPU time."""
    fastest: dict[str, float] = {}
    candidates = forms(rows)
    for _ in range(RUNS):
        for name, multiply in candidates.items():
            start = time.process_time()
            multiply()
            taken = time.process_time() - start
            fastest[name] = min(taken, fastest.get(name, taken))
    return fastest


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    print("| rows | weights | ms | against float32 |\n|---|---|---|---|")
    for rows in ROWS:
        measured = seconds_of(rows)
        for name, taken in measured.items():
            print(f"| {rows} | {name} | {1000 * taken:.2f} | {measured['float32'] / taken:.2f} x |")


if __name__ == "__main__":
    main()
