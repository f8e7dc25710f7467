"""Generated answers to held-out rows, logged at each evaluation during training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from xgenmm_hf.conversion.files import write_text
from xgenmm_hf.inference.batches import encode_batch
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.training.collators import read_images


METRIC = "eval_exact_match"
# Tokens allowed beyond the longest reference answer, and the maximum number of tokens of an answer.
SPARE_TOKENS, MOST_TOKENS = 8, 256


def joined_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the texts of messages as one string."""
    contents = [message["content"] for message in messages]
    return "".join(
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
        for content in contents
    )


def normalised(answer: str) -> str:
    """Returns an answer as exact match compares it: lower case, single spaces, no `.` or `!` at the end."""
    return " ".join(answer.casefold().split()).rstrip(".!")


class EvaluationAnswers:
    """Answers the first `number` evaluation rows in batches of `batch_size` and logs the answers as a table.

    In each row, the last answer is the reference and everything before it is the prompt. The table is written to
    `eval_answers/step-N.jsonl` in the output folder. If the run reports to TensorBoard, Weights and Biases or Trackio,
    the table is also logged there, with its images.
    """

    def __init__(self, processor: XGenMMProcessor, rows: Any, number: int, batch_size: int):
        self.processor = processor
        self.batch_size = batch_size
        chosen = [rows[index] for index in range(min(number, len(rows)))]
        self.rows = [row for row in map(question_of, read_images(chosen)[0]) if row is not None]
        if not self.rows:
            raise ValueError("eval_generate finds no row with a question and an answer in eval_mixture; leave it out.")
        lengths = [len(ids) for ids in processor.tokenizer([row["reference"] for row in self.rows])["input_ids"]]
        self.max_new_tokens = min(max(lengths) + SPARE_TOKENS, MOST_TOKENS)

    def answer(self, trainer: Any) -> dict[str, float]:
        """Answers this rank's share of the rows, logs the table on the main process and returns the exact match."""
        accelerator = trainer.accelerator
        # With sharded parameters all ranks must run every step, so each rank answers all rows.
        sharded = trainer.is_sharded()
        share = slice(None) if sharded else slice(accelerator.process_index, None, accelerator.num_processes)
        rows = list(enumerate(self.rows))[share]
        model = accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        answers: list[str] = []
        try:
            # Inference mode would leave buffers that training cannot use.
            with torch.no_grad(), accelerator.autocast():
                for start in range(0, len(rows), self.batch_size):
                    batch = [row for _, row in rows[start : start + self.batch_size]]
                    answers += self.generate(model, batch, sharded)
        finally:
            model.train(training)
        found = [(index, text) for (index, _), text in zip(rows, answers, strict=True)]
        found = found if sharded else gather_object(found)
        table = [{**self.rows[index], "answer": text} for index, text in sorted(found)]
        for row in table:
            row["right"] = normalised(row["answer"]) == normalised(row["reference"])
        if trainer.is_world_process_zero():
            log_table(trainer, table)
        return {METRIC: sum(row["right"] for row in table) / len(table)}

    def generate(self, model: Any, rows: Sequence[Mapping[str, Any]], sharded: bool) -> list[str]:
        """Answers one batch of rows greedily."""
        prompts = [self.processor.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
        images = [image for row in rows for image in row["images"]]
        inputs = encode_batch(Loaded(model, self.processor), prompts, images)
        length = inputs["input_ids"].shape[1]
        room = min(self.max_new_tokens, model.config.text_config.max_position_embeddings - length)
        output = model.generate(**inputs, max_new_tokens=room, do_sample=False, num_beams=1, synced_gpus=sharded)
        texts = self.processor.batch_decode(output[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def question_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Splits a conversation into prompt and last answer; returns None if it has no question or no answer."""
    messages = list(row.get("messages") or [*(row.get("prompt") or []), *(row.get("completion") or [])])
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if last == 0:
        return None
    prompt = messages[:last]
    parts = [part for message in prompt for part in message["content"] if isinstance(part, Mapping)]
    images = row["images"][: sum(part.get("type") == "image" for part in parts)]
    texts = {"question": joined_text(prompt[-1:]), "reference": joined_text([messages[last]])}
    return {"id": str(row.get("id", "?")), "prompt": prompt, "images": images, **texts}


def log_table(trainer: Any, table: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers into the output folder and to the trackers that the run reports to."""
    step = trainer.state.global_step
    columns = ("id", "question", "reference", "answer", "right")
    lines = [json.dumps({name: row[name] for name in columns}, ensure_ascii=False) for row in table]
    write_text(Path(trainer.args.output_dir) / "eval_answers" / f"step-{step}.jsonl", "\n".join(lines) + "\n")
    for callback in trainer.callback_handler.callbacks:
        writer = getattr(callback, "tb_writer", None)
        if writer is not None:
            log_to_tensorboard(writer, table, columns, step)
    trackers = trainer.args.report_to
    if "wandb" in trackers:
        import wandb

        data = [[*(row[name] for name in columns), list(map(wandb.Image, row["images"]))] for row in table]
        wandb.log({"eval_answers": wandb.Table(columns=[*columns, "images"], data=data)})
    if "trackio" in trackers:
        import pandas
        import trackio

        frame = pandas.DataFrame([{name: row[name] for name in columns} for row in table])
        frame["image"] = [trackio.Image(row["images"][0]) if row["images"] else None for row in table]
        trackio.log({"eval_answers": trackio.Table(dataframe=frame)})


def log_to_tensorboard(writer: Any, table: Sequence[Mapping[str, Any]], columns: Sequence[str], step: int) -> None:
    """Logs answers as a Markdown table, and the first image of each row under the row's id."""
    import numpy as np

    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row[name]).replace("|", "\\|").replace("\n", " ") for name in columns) for row in table]
    writer.add_text("eval_answers", "\n".join(lines), step)
    for row in table:
        if row["images"]:
            writer.add_image(f"eval_answers/{row['id']}", np.asarray(row["images"][0]), step, dataformats="HWC")
