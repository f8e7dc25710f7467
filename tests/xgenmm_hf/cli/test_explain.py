"""``xgenmm explain`` as a user calls it."""

import json

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf.cli.errors import friendly_errors
from xgenmm_hf.cli.explain import explain


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    app.command()(friendly_errors(explain))

    def run_verb(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run_verb


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGB", (120, 80), "red").save(file)
    return file


def test_overlay_and_shares(run, image, tmp_path):
    output = tmp_path / "heat.png"
    result = run(image, "--prompt", "What color is the square?", "--output", output, "--max-new-tokens", 4)
    assert result.exit_code == 0, result.output
    with Image.open(output) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (120, 80))
        assert len(drawn.convert("RGB").getcolors(120 * 80)) > 10, "the red image with the heat over it"
    assert "overview" in result.stdout
    assert "of the answer's attention goes to the image" in result.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["heat.png", "red.png"]


def test_json(run, image, tmp_path):
    output = tmp_path / "heat.jpg"
    result = run(image, "-p", "Hello?", "-o", output, "--answer", "a red square", "--layer", "-1", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["answer"] == "a red square"
    assert record["layer"] == -1
    assert sum(tile["share"] for tile in record["tiles"]) == pytest.approx(1)
    with Image.open(output) as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", (120, 80))
        assert len(drawn.getcolors(120 * 80)) > 10


def test_bad_paths_are_one_line(run, image, tmp_path):
    for arguments, message in [
        ((tmp_path / "no.png",), "There is no image at"),
        ((image, "-o", tmp_path / "heat.txt"), "does not end in .png"),
        ((image, "-o", tmp_path / "gone" / "heat.png"), "make it first"),
        ((image, "--model", tmp_path / "gone"), "There is no model at"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
