"""Time and memory of a DPO step: stock TRL with its own collator, and ours, on the same rows and weights.

    python tests/benchmarks/dpo_step.py [--text-layers 8] [--repeats 7]

Each side runs in a process of its own; the parent lets them take steps in turn, so that both see the same machine. A
step is what a training loop does without workers: collate the rows, forward and backward, optimizer. LoRA on the
language model, tower and resampler frozen, weights random.

The default shapes are vision-heavy: by the count below an image costs the tower about four times what a sequence
costs the language model. `--text-layers 60` gives about the proportion of SigLIP so400m to Phi-3-mini. On a machine
that others use, too, processor time says more than the clock.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time


TILE, PATCH, GRIDS = 112, 8, [[112, 224], [224, 112], [224, 224]]
VISION = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
TEXT = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 8}
NUM_LATENTS = 34  # of 196 patches, as 128 of 729
NUM_TILES = 5
SIDES = ("stock", "ours")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-layers", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of a step")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def build_model(options: argparse.Namespace, processor):
    """A random model, the same in both processes."""
    import torch

    from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration

    tokenizer = processor.tokenizer
    config = XGenMMConfig(
        vision_config={**VISION, "image_size": TILE, "patch_size": PATCH, "vision_use_head": False},
        resampler_config={"num_latents": NUM_LATENTS, "depth": 2, "num_heads": 6, "head_dim": 64},
        text_config={
            **TEXT,
            "num_hidden_layers": options.text_layers,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "sliding_window": None,
        },
        image_token_id=processor.image_token_id,
        image_placeholder_token_id=tokenizer.convert_tokens_to_ids("<image placeholder>"),
        end_of_chunk_token_id=tokenizer.convert_tokens_to_ids("<|endofchunk|>"),
        anyres_grids=GRIDS,
    )
    torch.manual_seed(0)
    return XGenMMForConditionalGeneration._from_config(config, dtype=getattr(torch, options.dtype))


def build_processor():
    from xgenmm_hf import TINY_MODEL, XGenMMImageProcessor, XGenMMProcessor

    tokenizer = XGenMMProcessor.from_pretrained(TINY_MODEL).tokenizer
    cutter = XGenMMImageProcessor(size=TILE, anyres_grids=GRIDS)
    return XGenMMProcessor(cutter, tokenizer, num_latents=NUM_LATENTS)


def make_rows(count: int) -> list[dict]:
    """Rows with one image of five tiles each."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (count, 300, 320, 3), dtype=np.uint8)
    answers = ("a red disc above a blue square", "two green stars and a dog")
    return [
        {
            "images": [Image.fromarray(image)],
            "prompt": [{"role": "user", "content": "What does the image show?"}],
            "chosen": [{"role": "assistant", "content": answers[index % 2]}],
            "rejected": [{"role": "assistant", "content": answers[1 - index % 2]}],
        }
        for index, image in enumerate(pixels)
    ]


def build_trainer(options: argparse.Namespace, folder: str):
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from xgenmm_hf.training.dpo import XGenMMDPOTrainer

    processor = build_processor()
    trainer = (XGenMMDPOTrainer if options.side == "ours" else DPOTrainer)(
        build_model(options, processor),
        args=DPOConfig(folder, max_length=None, report_to="none", bf16=False, seed=0, learning_rate=1e-4),
        train_dataset=Dataset.from_list(make_rows(1)),
        processing_class=processor,
        peft_config=LoraConfig(r=8, target_modules=r".*language_model.*(qkv_proj|o_proj)", task_type="CAUSAL_LM"),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the reference, or the first losses would be log 2 whatever the images are
        for _, weight in sorted(trainer.model.named_parameters()):
            if weight.requires_grad:
                weight += (0.01 * torch.randn(weight.shape, generator=generator)).to(weight)
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    return trainer


def peak_memory() -> float:
    """Peak memory in MB: of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(options: argparse.Namespace) -> None:
    """Takes a step for each line of the standard input and answers with one of JSON."""
    import torch

    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(options, folder)
        trainer.model.train()
        rows = make_rows(options.pairs)
        before = peak_memory()
        for _ in sys.stdin:
            start, busy = time.perf_counter(), time.process_time()
            batch = trainer.data_collator([dict(row) for row in rows])
            collated = time.perf_counter()
            loss = trainer.training_step(trainer.model, dict(batch)).item()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            end = time.perf_counter()
            record = {"collate": collated - start, "step": end - start, "loss": loss}
            record["processor"] = time.process_time() - busy
            record.update(peak=peak_memory(), built=before, tiles=len(batch["pixel_values"]))
            answers.write(json.dumps(record) + "\n")
            answers.flush()


def vision_share(options: argparse.Namespace) -> float:
    """Multiplications of the tower for an image over those of the language model for a sequence (no attention)."""
    layer = 4 * VISION["hidden_size"] ** 2 + 2 * VISION["hidden_size"] * VISION["intermediate_size"]
    tower = VISION["num_hidden_layers"] * layer * (TILE // PATCH) ** 2 * NUM_TILES
    layer = 4 * TEXT["hidden_size"] ** 2 + 3 * TEXT["hidden_size"] * TEXT["intermediate_size"]
    return tower / (options.text_layers * layer * (NUM_TILES * NUM_LATENTS + 40))


def main() -> None:
    options = parse_arguments()
    if options.side:
        work(options)
        return
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--side", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    records: dict[str, list[dict]] = {side: [] for side in SIDES}
    for number in range(options.repeats + 1):
        for side in SIDES if number % 2 else reversed(SIDES):
            workers[side].stdin.write("go\n")
            workers[side].stdin.flush()
            records[side].append(json.loads(workers[side].stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    report(options, records)


def report(options: argparse.Namespace, records: dict[str, list[dict]]) -> None:
    """Prints medians without the first step, which warms up."""
    print(f"tower for an image / language model for a sequence: {vision_share(options):.2f}")
    medians = {}
    for side, steps in records.items():
        names = ("step", "collate", "processor")
        medians[side] = {name: statistics.median(record[name] for record in steps[1:]) for name in names}
        peak, built = steps[-1]["peak"], steps[0]["built"]
        print(
            "{:6} step {step:.3f} s ({collate:.3f} s of it collating), processor time {processor:.3f} s, ".format(
                side, **medians[side]
            )
            + f"{steps[0]['tiles']} tiles, peak memory {peak:.0f} MB ({peak - built:.0f} MB above the built trainer)"
        )
    clock, processor = (medians["stock"][name] / medians["ours"][name] for name in ("step", "processor"))
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(*records.values(), strict=True))
    losses = [record["loss"] for record in records["ours"]]
    print(f"stock / ours: {clock:.2f} by the clock, {processor:.2f} in processor time")
    print(f"losses {losses[0]:.4f} to {losses[-1]:.4f}, at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
