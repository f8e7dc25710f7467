"""Rows and rewards that stand in for what scripts of TRL's repository load from the Hub; the scripts stay as they are.

The scripts load a data set of the Hub by name and check answers with `math_verify`; neither is at hand in a test. What
they import is replaced before they import it: `datasets.load_dataset` returns rows in the published columns, and the
reward is one that varies.
"""

import runpy
import sys
from pathlib import Path

import datasets
import trl.rewards
from PIL import Image

import xgenmm_hf.auto  # noqa: F401


COLOURS = ("red", "green", "blue")
NUM_ROWS = 108  # the scripts keep 100 rows for evaluation


def question_rows() -> datasets.Dataset:
    """Returns rows of `image`, `problem` and `solution`."""
    rows = [
        {
            "image": Image.new("RGB", (40 + index % 3 * 30, 40), COLOURS[index % 3]),
            "problem": "Which colour?",
            "solution": COLOURS[index % 3],
        }
        for index in range(NUM_ROWS)
    ]
    return datasets.Dataset.from_list(rows)


def answered_rows(kind: str) -> datasets.DatasetDict:
    """Returns rows of `images` with `messages`, or with `prompt`, `chosen` and `rejected`."""
    rows = []
    for index in range(6):
        image = Image.new("RGB", (40 + index % 3 * 30, 40), COLOURS[index % 3])
        ask = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Which colour?"}]}
        say = [
            {"role": "assistant", "content": [{"type": "text", "text": COLOURS[(index + shift) % 3]}]}
            for shift in (0, 1)
        ]
        row = (
            {"messages": [ask, say[0]]}
            if kind == "messages"
            else {
                "prompt": [ask],
                "chosen": [say[0]],
                "rejected": [say[1]],
            }
        )
        rows.append({"images": [image], **row})
    return datasets.DatasetDict(train=datasets.Dataset.from_list(rows))


def load_dataset(path: str, *args, **kwargs):
    """Stands in for `datasets.load_dataset`."""
    return answered_rows(path) if path in ("messages", "preferences") else question_rows()


def reward(completions, **kwargs) -> list[float]:
    """Returns rewards that vary over a group."""
    return [float(index % 3) for index in range(len(completions))]


def run_script(monkeypatch, script: Path, options: list[str]) -> None:
    """Runs a script in this process."""
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(trl.rewards, "accuracy_reward", reward)
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    runpy.run_path(str(script), run_name="__main__")
