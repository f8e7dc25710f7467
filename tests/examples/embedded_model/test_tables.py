"""`make eval` on a handful of questions: what it writes, and what it must not."""

import json
from dataclasses import replace

import pytest
from embedded_model.measure import tables as embedded_report
from embedded_model.measure.tables import EMBEDDED, main

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.results import read_result


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The work folder and the report of a run with few samples."""
    folder = tmp_path_factory.mktemp("eval")
    few = [replace(entry, settings=replace(entry.settings, limit=2)) for entry in embedded_report.ENTRIES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_report, "ENTRIES", tuple(few))
        patch.setattr("sys.argv", ["embedded_report", *embedded_report.DEFAULTS])
        main(folder / "work", folder / "report", scale=0.01)
        patch.setattr("sys.argv", ["embedded_report", "--work", "w", "--scale", "0.01"])
        main(folder / "work", folder / "again", scale=0.01)
    return folder / "work", folder / "report", folder / "again"


def test_files(folders):
    names = {file.name for file in folders[1].iterdir()}
    plots = {"shots.png", "explain-1-shapes.png", "explain-3-banner.png"}
    assert names == {"README.md", "results.json", *plots}


def test_the_numbers_are_those_of_the_results(folders):
    work, report, _ = folders
    results = json.loads((report / "results.json").read_text())["results"]
    assert list(results) == [entry.name for entry in embedded_report.ENTRIES]
    for name, result in results.items():
        assert result["scores"] == read_result(work / name)["scores"]
        assert result["counts"] == {"evaluated": 2, "problems": 0, "resumed": 0}
    page = (report / "README.md").read_text()
    assert f"vqa_accuracy {results['questions']['scores']['vqa_accuracy']:.4f}" in page


def test_no_path_of_this_machine_is_in_the_report(folders):
    work, report, _ = folders
    for file in report.glob("*.*"):
        if file.suffix != ".png":
            text = file.read_text()
            assert str(work.parent) not in text
            assert EMBEDDED[TINY_MODEL] in text
            assert "assets/tiny" not in text
    assert all(name in (report / "README.md").read_text() for name in EMBEDDED.values())


def test_answers_that_are_there_are_taken_over(folders):
    results = json.loads((folders[2] / "results.json").read_text())["results"]
    assert all(result["counts"]["resumed"] == 2 for result in results.values())
    first, again = (json.loads((folder / "results.json").read_text()) for folder in folders[1:])
    assert "`make eval` wrote this" in (folders[1] / "README.md").read_text()
    command = "python -m embedded_model.measure.tables --work w --scale 0.01"
    assert f"`{command}` wrote this" in (folders[2] / "README.md").read_text()
    assert (first["command"], again["command"]) == ("make eval", command)
    assert first["took"]
    assert again["took"] == ""
    assert [result["scores"] for result in first["results"].values()] == [
        result["scores"] for result in results.values()
    ]
