"""The examples of docs/evaluation.md: each file gives exactly the sample, or the problems, that stand below it."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from xgenmm_hf.evaluation.harness import benchmarks
from xgenmm_hf.evaluation.metrics import METRICS
from xgenmm_hf.evaluation.tasks import KINDS, load_task


DOC = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"
BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r'"([\w/]+\.(?:png|jpg))"')


def examples() -> list[tuple[str, dict[str, str], str, str]]:
    """Returns (kind, file name -> content, what is expected: "sample" or "problems", and its text) of each example."""
    found, kind, files = [], "", {}
    for block in BLOCK.finditer(DOC.read_text(encoding="utf-8")):
        _, *info = block["info"].split()
        if info in (["sample"], ["problems"]):
            found.append((kind, files, info[0], block["body"]))
            files = {}
        for part in info:
            name, _, value = part.partition("=")
            kind = value if name == "kind" else kind
            if name == "file":
                files[value] = block["body"]
    return found


@pytest.mark.parametrize(("kind", "files", "expected", "text"), examples(), ids=lambda value: str(value)[:20])
def test_example(tmp_path, kind, files, expected, text):
    images = {name for source in (*files.values(), text) for name in IMAGE.findall(source)}
    for name in images:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    task = load_task(kind, [tmp_path / name for name in files])
    if expected == "problems":
        problems = [str(problem) for problem in task.problems]
        lines = text.strip().splitlines()
        assert len(problems) == len(lines)
        assert all(problem.startswith(line) for problem, line in zip(problems, lines, strict=True))
        return
    assert task.problems == []
    sample = task.samples[0]
    assert json.loads(text) == {
        "id": sample.id,
        "text": sample.text,
        "images": [str(Path(image["path"]).relative_to(tmp_path)) for image in sample.images],
        "references": list(sample.references),
        "category": sample.category,
    }


def test_every_kind_and_metric_is_there():
    shown = DOC.read_text(encoding="utf-8")
    assert {kind for kind, *_ in examples()} == set(KINDS) - {"okvqa"}
    assert [kind for kind in KINDS if f"`{kind}`" not in shown] == []
    assert [metric for metric in METRICS if f"`{metric}`" not in shown] == []


@pytest.mark.parametrize("name", ["SINGLE_IMAGE", "MULTI_IMAGE", "FURTHER"])
def test_the_tables_of_benchmarks_are_those_of_the_code(name):
    table = DOC.read_text(encoding="utf-8").split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    known = getattr(benchmarks, name)
    assert [(cells[0], cells[1], cells[3]) for cells in cells] == [
        (one.name, f"`{one.command}`", one.judge) for one in known
    ]
