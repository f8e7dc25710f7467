import json

import pytest
from embedded_model.measure.report import COLUMNS, as_markdown, write_report
from embedded_model.measure.stages import Measured
from PIL import Image


ROW = dict.fromkeys(Measured.__dataclass_fields__, 0.5)
FACTS = {"date": "2026-01-02", "machine": "2-core test", "command": "python -m something", "questions": 7}


def test_every_measurement_has_a_column():
    assert set(COLUMNS) == set(Measured.__dataclass_fields__)


def test_the_table_has_a_row_a_stage_in_percent():
    lines = as_markdown({"sft": {**ROW, "single": 0.123}, "dpo": ROW}).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| sft | 12.3 | 50.0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_table_plot_and_numbers_are_written(tmp_path):
    write_report({"sft": ROW, "dpo": {**ROW, "single": 0.9}}, FACTS, tmp_path / "report")
    page = (tmp_path / "report" / "README.md").read_text()
    assert "    python -m something" in page
    assert "| dpo | 90.0 |" in page
    assert json.loads((tmp_path / "report" / "results.json").read_text())["stages"]["dpo"]["single"] == 0.9
    assert Image.open(tmp_path / "report" / "stages.png").width > 400


def test_unknown_measurements_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no measurements called guessed"):
        write_report({"sft": {**ROW, "guessed": 1.0}}, FACTS, tmp_path)
