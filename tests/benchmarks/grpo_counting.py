"""Reward right counts: TRL's own GRPOTrainer, as it is, on counting questions of the embedded model.

python tests/benchmarks/grpo_counting.py                    # 40 steps on a CPU, some minutes
python tests/benchmarks/grpo_counting.py --model path/to/checkpoint --steps 200

Each prompt shows one to six circles and asks how many there are; an answer that is the number is worth 1, any other 0.
The mean reward of the sampled answers rises; held-out questions are asked greedily before and after.
"""

import argparse
import random

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image, ImageDraw
from trl import GRPOConfig, GRPOTrainer

import xgenmm_hf
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor


COLOURS = ("red", "green", "blue", "yellow")
GRID, CELL = 3, 32
LAYERS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def counting_rows(number: int, seed: int) -> Dataset:
    """Draws images of circles on a grid with the question how many there are."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        count = draw.randint(1, 6)
        image = Image.new("RGB", (GRID * CELL, GRID * CELL), "white")
        pen = ImageDraw.Draw(image)
        for place in draw.sample(range(GRID * GRID), count):
            x, y = place % GRID * CELL, place // GRID * CELL
            pen.ellipse((x + 6, y + 6, x + CELL - 6, y + CELL - 6), fill=draw.choice(COLOURS))
        prompt = [{"role": "user", "content": "How many circles are there?"}]
        rows.append({"prompt": prompt, "images": [image], "count": str(count)})
    return Dataset.from_list(rows)


def right_count(completions, count, **_) -> list[float]:
    """Returns 1 for an answer that is the number, else 0."""
    answers = [completion[0]["content"].strip().rstrip(".") for completion in completions]
    return [float(answer == wanted) for answer, wanted in zip(answers, count, strict=True)]


def accuracy(model, processor, rows: Dataset) -> float:
    """Asks every row greedily; returns the share of right answers."""
    model.eval()
    right = 0.0
    for row in rows:
        content = [{"type": "image", "image": row["images"][0]}, {"type": "text", "text": row["prompt"][0]["content"]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            output = model.generate(**inputs.to(model.device), max_new_tokens=4, do_sample=False)
        text = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        right += right_count([[{"content": text}]], [row["count"]])[0]
    return right / len(rows)


def main() -> None:
    """Trains and prints the rewards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--output", default="runs/grpo", help="where the adapter goes")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=60)
    args = parser.parse_args()

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    held_out = counting_rows(args.held_out, seed=1)
    before = accuracy(model, processor, held_out)
    config = GRPOConfig(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=4,
        learning_rate=1e-3,
        temperature=1.0,
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=right_count,
        args=config,
        train_dataset=counting_rows(8 * args.steps, seed=0),
        processing_class=processor,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
        ),
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    few = max(len(rewards) // 4, 1)
    after = accuracy(trainer.model, processor, held_out)
    print(
        f"mean reward, first {few} steps: {sum(rewards[:few]) / few:.3f}, last {few}: {sum(rewards[-few:]) / few:.3f}"
    )
    print(f"held-out counts, asked greedily: {before:.3f} -> {after:.3f}")
    trainer.save_model(args.output)


if __name__ == "__main__":
    main()
