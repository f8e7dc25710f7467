"""The prompt form of a run: how its rows put questions, stored with the checkpoint for evaluation.

Evaluation asks short-answer questions with a usual request behind them; a model that was tuned on other prompts is
asked the way it was tuned. `prompt_form.json` holds `suffix`, the last line that most questions share (empty: none),
and `system`, the system turn that most rows have (null: the chat template's own).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from xgenmm_hf.training.answers import text_of


FILE = "prompt_form.json"
SHARED_BY = 0.9
ROWS_LOOKED_AT = 1000


def prompt_form_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """Reads the prompt form off conversation rows."""
    suffixes: Counter[str] = Counter()
    systems: Counter[str | None] = Counter()
    for row in rows:
        messages = row.get("messages") or row.get("prompt") or []
        questions = [message for message in messages if message["role"] == "user"]
        first = text_of(questions[:1]).strip("\n")
        _, break_, last = first.rpartition("\n")
        suffixes[break_ + last if break_ else ""] += 1
        found = [message for message in messages if message["role"] == "system"]
        systems[text_of(found[:1]) if found else None] += 1
    return {"suffix": most_shared(suffixes, "") or "", "system": most_shared(systems, None)}


def most_shared(counts: Counter, otherwise: Any) -> Any:
    """Returns what at least nine of ten share, or something else where there is no such thing."""
    if not counts:
        return otherwise
    value, number = counts.most_common(1)[0]
    return value if number >= SHARED_BY * counts.total() else otherwise
