"""Every public class has an example, and it runs."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import xgenmm_hf


ROOT = Path(__file__).resolve().parents[2]
# known by their names: to look at the functions that build pages imports Gradio
CLASSES = [
    name
    for name in xgenmm_hf.__all__
    if re.match("[A-Z][a-zA-Z]*[a-z]", name) and getattr(xgenmm_hf, name).__module__.startswith("xgenmm_hf.")
]


class LastLines(doctest.OutputChecker):
    """Compares the last lines: trainers print their progress before a result."""

    def check_output(self, want, got, flags):
        lines = want.splitlines()
        return not lines or got.splitlines()[-len(lines) :] == lines


def test_there_are_public_classes():
    assert {"XGenMMConfig", "XGenMMProcessor", "XGenMMSFTTrainer"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    section = re.search(r"^Example:\n(.*)", inspect.getdoc(getattr(xgenmm_hf, name)), flags=re.M | re.S)
    assert section is not None
    code = re.sub(r"^\s*```\w*$\n?", "", section[1], flags=re.M)
    example = doctest.DocTestParser().get_doctest(code, {}, name, None, None)
    assert any(part.want for part in example.examples)
    said: list[str] = []
    doctest.DocTestRunner(checker=LastLines(), verbose=False).run(example, out=said.append)
    assert said == []
