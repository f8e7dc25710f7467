"""One feed-forward matrix of the 4B model on one core of this CPU, in every form of weights that torch multiplies.

OMP_NUM_THREADS=1 python tests/benchmarks/cpu_dtypes.py
OMP_NUM_THREADS=1 python tests/benchmarks/cpu_dtypes.py --compiled              # needs torchao and a C++ compiler
OMP_NUM_THREADS=1 python tests/benchmarks/cpu_dtypes.py --model 4b-slice        # needs torchao

Prints a Markdown table: for one row (a decode step) and for many (a prompt) the ratio to float32. With `--model` the
same for a whole model of `shapes.py`: a prompt with an image of five tiles, and a decode step behind it; with
`--compiled` for two feed-forward blocks as `torch.compile` makes them, their weights frozen into the graph. The clock
is the process's own CPU time, the fastest of several runs counts, and all forms take turns in one process.
"""

import argparse
import time
from collections.abc import Callable

import torch
from shapes import PRESETS, build_model, make_prompt, preset_config


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


def compiled_forms(rows: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Returns a function for each form of the weights of two feed-forward blocks, compiled but for the first two."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch._inductor.config.freezing = True
    candidates: dict[str, Callable[[], torch.Tensor]] = {}
    for name in ("float32", "bfloat16", "float32, compiled", "bfloat16, compiled", "int8 weights, bfloat16, compiled"):
        dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
        widths = (WIDTH, INNER, WIDTH, INNER, WIDTH)
        layers = [torch.nn.Linear(*pair, bias=False) for pair in zip(widths, widths[1:], strict=False)]
        blocks = torch.nn.Sequential(*layers).to(dtype).eval()
        if name.startswith("int8"):
            quantize_(blocks, Int8WeightOnlyConfig())
        multiply = torch.compile(blocks) if name.endswith("compiled") else blocks
        tokens = torch.randn(rows, WIDTH, dtype=dtype)
        multiply(tokens)  # compiles
        candidates[name] = lambda multiply=multiply, tokens=tokens: multiply(tokens)
    return candidates


def steps_of(preset: str) -> dict[str, dict[str, Callable[[], torch.Tensor]]]:
    """Returns for a prompt and for a decode step a function for each form of a model's weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    config, device = preset_config(preset), torch.device("cpu")
    steps: dict[str, dict[str, Callable[[], torch.Tensor]]] = {"prompt": {}, "decode step": {}}
    for name in ("float32", "bfloat16", "int8 weights, float32", "int8 weights, bfloat16"):
        dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
        model = build_model(config, device, dtype)
        if name.startswith("int8"):
            quantize_(model.model.language_model, Int8WeightOnlyConfig())
        prompt = make_prompt(config, 1, device, dtype)

        def read(model=model, prompt=prompt) -> torch.Tensor:
            return model(**prompt, use_cache=True, logits_to_keep=1)

        cache = read().past_key_values
        token = torch.full((1, 1), 7)

        def decode(model=model, cache=cache, token=token) -> torch.Tensor:
            return model(input_ids=token, past_key_values=cache, use_cache=True)

        steps["prompt"][name], steps["decode step"][name] = read, decode
    return steps


@torch.no_grad()
def seconds_of(candidates: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Measures all forms in turns and returns the fastest run of each, in seconds of CPU time."""
    fastest: dict[str, float] = {}
    for _ in range(RUNS):
        for name, compute in candidates.items():
            start = time.process_time()
            compute()
            taken = time.process_time() - start
            fastest[name] = min(taken, fastest.get(name, taken))
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=PRESETS)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    print("| what | weights | ms | against float32 |\n|---|---|---|---|")
    made = compiled_forms if options.compiled else forms
    with torch.no_grad():
        named = steps_of(options.model) if options.model else {f"{rows} rows": made(rows) for rows in ROWS}
    for what, candidates in named.items():
        measured = seconds_of(candidates)
        for name, taken in measured.items():
            print(f"| {what} | {name} | {1000 * taken:.2f} | {measured['float32'] / taken:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
