"""The prompt form that a checkpoint was tuned with: training stores it, and evaluation uses it.

`prompt_form.json` holds `suffix`, the last line that most questions of the training rows share (empty: none), and
`system`, the system turn that most rows have (null: the chat template's own).
"""

from typing import NamedTuple

from xgenmm_hf.conversion.files import read_json


FILE = "prompt_form.json"


class PromptForm(NamedTuple):
    """The text after each question, and the system turn or None."""

    suffix: str
    system: str | None


def read_prompt_form(source: str) -> PromptForm | None:
    """Reads the prompt form of a folder or a Hub repository; None where training stored none."""
    from transformers.utils.hub import cached_file

    try:
        fields = read_json(cached_file(source, FILE))
    except OSError:  # also the library's own error for a file that is not there
        return None
    return PromptForm(str(fields.get("suffix") or ""), fields.get("system"))
