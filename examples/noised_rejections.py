"""Give preference rows a second rejected answer each: what the model itself says to a noised copy of the image.

python examples/noised_rejections.py --model path/to/checkpoint --data mixture.yaml --output pairs-and-noised
python examples/noised_rejections.py          # the embedded model on a small sample, in seconds
xgenmm train dpo --config dpo_4b --mixture pairs-and-noised

An answer to an image that is barely there rests on what the model expects, not on what it sees: next to the preferred
answer it is a hallucination of the model's own.
Source: BLIP-3 (arXiv 2408.08872, section on DPO); POVID (arXiv 2402.11411) for noised images as a source of rejected
answers; Visual Contrastive Decoding (arXiv 2311.16922) for the sigmoid schedule and step 500 of 1000.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, load_from_disk

import xgenmm_hf
from xgenmm_hf import PreferenceCollator, load, load_mixture, load_rows


SAMPLE = Path(__file__).resolve().parent / "data"
NUM_STEPS = 1000


def signal_left(schedule: str) -> torch.Tensor:
    """Returns how much of an image is left after each step: the running product of 1 - beta, (NUM_STEPS,).

    Source: Ho et al. 2020 (arXiv 2006.11239), section 4, for linear betas from 1e-4 to 0.02; Visual Contrastive
    Decoding (arXiv 2311.16922) for betas from 1e-5 to 5e-3 along a sigmoid from -6 to 6.
    """
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, NUM_STEPS, dtype=torch.float64)
    else:
        betas = torch.linspace(-6, 6, NUM_STEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    return torch.cumprod(1 - betas, 0).float()


def noise_tiles(tiles: torch.Tensor, step: int, schedule: str, seed: int) -> torch.Tensor:
    """Noises an image's tiles as a diffusion process does up to a step: sqrt(a) x + sqrt(1 - a) e, with e normal.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 4; a is `signal_left` at the step.
    """
    if not 0 <= step < NUM_STEPS:
        raise ValueError(f"step is {step}; it must be between 0 and {NUM_STEPS - 1}.")
    left = signal_left(schedule)[step]
    noise = torch.randn(tiles.shape, generator=torch.Generator().manual_seed(seed))
    return (left.sqrt() * tiles.float() + (1 - left).sqrt() * noise).to(tiles.dtype)


def left_padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads prompts to one length; returns their ids and the attention mask, (B, L)."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    return ids, (torch.arange(width) >= width - lengths[:, None]).long()


def read_rows(data: Path, images: Path | None) -> Dataset:
    """Reads preference rows from a mixture, a data file or a folder that `save_to_disk` wrote."""
    rows: Any
    if data.is_dir():
        rows = load_from_disk(str(data))
    elif data.suffix == ".yaml":
        rows = load_mixture(data).dataset
    else:
        rows = load_rows("auto", data, roots={"": images} if images else None).dataset
    if not {"prompt", "chosen", "rejected"} <= {*rows.column_names}:
        raise ValueError(f"{data} holds no preference rows; they have prompt, chosen and rejected.")
    return rows


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of messages whose contents are strings or lists of parts."""
    contents = [message["content"] for message in messages]
    parts = [[{"text": content}] if isinstance(content, str) else content for content in contents]
    return "".join(part["text"] or "" for content in parts for part in content)


def check(batch: Mapping[str, Any], context: int) -> str:
    """Tells what becomes of a row that was collated alone: "asked", or why not."""
    if batch["unreadable"]:
        return "unreadable"
    if "pixel_values" not in batch:
        return "no image"
    return "asked" if batch["completion_mask"][0].argmax() < context else "too long"


def answer_noised(loaded: Any, batches: Mapping[int, Mapping[str, Any]], options: argparse.Namespace) -> list[str]:
    """Answers the prompts of rows that were collated alone; every image is noised by a seed of its own."""
    prompts = [batch["input_ids"][0, : batch["completion_mask"][0].argmax()] for batch in batches.values()]
    noised = []
    for number, batch in batches.items():
        for place, tiles in enumerate(batch["pixel_values"].split(batch["image_num_tiles"].tolist())):
            seed = (options.seed * 1_000_003 + number) * 1_009 + place
            noised.append(noise_tiles(tiles, options.step, options.schedule, seed))
    ids, mask = left_padded(prompts)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.cat(noised).to(loaded.model.dtype)}
    for name in ("image_sizes", "image_num_tiles"):
        inputs[name] = torch.cat([batch[name] for batch in batches.values()])
    inputs = {name: value.to(loaded.model.device) for name, value in inputs.items()}
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False)
    texts = loaded.processor.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def as_rejection(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Returns a row that rejects an answer, with contents in the form that the row's have."""
    message = row["rejected"][-1]
    plain = isinstance(message["content"], str)
    content: Any = answer if plain else [{"type": "text", "text": answer}]
    named = {"id": f"{row['id']}-noised"} if row.get("id") is not None else {}
    return {**row, **named, "rejected": [{**message, "content": content}]}


def rejections(loaded: Any, rows: Dataset, options: argparse.Namespace, counts: Counter) -> Iterator[dict[str, Any]]:
    """Yields the added rows, and counts what becomes of all."""
    collator = PreferenceCollator(loaded.processor)
    context = loaded.model.config.text_config.max_position_embeddings
    for start in range(0, len(rows), options.batch_size):
        batches = {}
        for number in range(start, min(start + options.batch_size, len(rows))):
            batch = collator([rows[number]])
            outcome = check(batch, context)
            if outcome == "asked":
                batches[number] = batch
            else:
                counts[outcome] += 1
        answers = answer_noised(loaded, batches, options) if batches else []
        for number, answer in zip(batches, answers, strict=True):
            row = rows[number]
            if answer and answer != text_of(row["chosen"]).strip():
                counts["added"] += 1
                yield as_rejection(row, answer)
            else:
                counts["same answer" if answer else "empty answer"] += 1


def main() -> None:
    """Reads the arguments, answers and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument(
        "--data", type=Path, help="preference rows: a mixture, a file, a folder; default: a small sample"
    )
    parser.add_argument("--images", type=Path, help="folder that the images' paths in a data file are relative to")
    parser.add_argument("--output", type=Path, default=Path("runs/noised"), help="new folder for all rows")
    parser.add_argument("--step", type=int, default=500, help=f"steps of noise, below {NUM_STEPS}")
    parser.add_argument("--schedule", choices=("sigmoid", "linear"), default="sigmoid")
    parser.add_argument("--batch-size", type=int, default=8, help="rows answered together")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="upper limit of an answer's length")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--device", default="auto", help="a torch device such as cuda:0, or auto")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists already: name a new folder.")
    sample = (SAMPLE / "answers.jsonl", SAMPLE / "images")
    rows, counts = read_rows(*(sample if options.data is None else (options.data, options.images))), Counter[str]()
    loaded = load(options.model, device=options.device)
    added = list(rejections(loaded, rows, options, counts))
    whole = concatenate_datasets([rows, Dataset.from_list(added, features=rows.features)]) if added else rows
    whole.save_to_disk(str(options.output))
    for outcome, count in counts.most_common():
        print(f"{outcome:12} {count}")
    print(f"{len(whole)} rows are in {options.output}")


if __name__ == "__main__":
    main()
