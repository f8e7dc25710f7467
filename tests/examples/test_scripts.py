"""Every script in examples/ runs on the embedded model and says what is right."""

import json
import re
import runpy
import sys
from pathlib import Path

import forked
import pytest
from PIL import Image


ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TRAINING = ("sft.py", "sft_interleaved.py", "dpo.py")
ELSEWHERE = ("bulk_ray.py",)  # needs Ray; its tests are in tests/xgenmm_hf/bulk
GRADIENTS = ("pixel_gradients.py",)
ASKING = [path for path in EXAMPLES if path.name not in (*TRAINING, *GRADIENTS, *ELSEWHERE, "demo.py")]
ASSETS = ROOT / "xgenmm_hf" / "assets" / "images"
CAPTIONS = {row["image"]: row["caption"] for row in json.loads((ASSETS / "images.json").read_text(encoding="utf-8"))}
SHAPE = re.compile(r"circle|cross|heart|star|triangle")
WHAT_THEY_SAY = {
    "batch_inference.py": "\n".join(f"{name}: {len(SHAPE.findall(text))}" for name, text in CAPTIONS.items()),
    "box_captions.py": r'{"image": "1.jpg", "caption": "\"MACK SHOP\""}'
    + '\n{"image": "2.jpg", "caption": "A bus (to the right of the center) in the rain."}',
    "describe_image.py": CAPTIONS["3-banner.png"],
    "draw_anatomy.py": "Wrote anatomy.png",
    "few_shot_base_format.py": CAPTIONS["3-banner.png"],
    "noised_rejections.py": re.compile(r"added +[1-9]\d*\n\d+ rows are in runs/noised"),
    "several_images.py": "first",
}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a script with arguments and returns what it printed; in this process, which has the libraries loaded."""
    monkeypatch.chdir(tmp_path)

    def run_script(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        except SystemExit as left:
            assert not left.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run_script


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{color}.png" for color in ("red", "green", "blue")]
    for index, path in enumerate(paths):
        Image.new("RGB", (80 + 40 * index, 60), path.stem).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("script", ASKING, ids=lambda path: path.name)
def test_with_nothing_but_defaults(run, script):
    said, expected = run(script.name).strip(), WHAT_THEY_SAY[script.name]
    assert expected.search(said) if isinstance(expected, re.Pattern) else said == expected


def test_the_demo_says_what_is_expected(run, monkeypatch):
    """What `make demo` runs; its commands in processes that have the libraries imported."""

    def xgenmm(command, *, stdout, text, check):
        program, *arguments = command
        assert program == Path(sys.executable).parent / "xgenmm" and program.exists()
        done = forked.run(["-c", "from xgenmm_hf.cli.app import main; main()", *arguments])
        assert done.returncode == 0, done.stderr
        return done

    monkeypatch.setattr("subprocess.run", xgenmm)
    said = re.findall(r"^(.+)   \(expected: (.+)\)$", run("demo.py"), flags=re.MULTILINE)
    assert len(said) == 3 and all(answer == expected for answer, expected in said)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sft.py", "sft_interleaved.py"])
def test_training_scripts_learn_their_sample(run, script):
    said = run(script, "--epochs", "1", "--batch-size", "2")
    first, last = map(float, re.search(r"Loss: ([\d.]+) at the first step, ([\d.]+) at", said).groups())
    assert last < 0.6 * first


@pytest.mark.slow
def test_dpo_widens_the_margin_on_its_sample(run):
    said = run("dpo.py", "--epochs", "1", "--batch-size", "2")
    first, last = map(float, re.search(r"answers: (-?[\d.]+) at the first step, (-?[\d.]+)", said).groups())
    assert last > first + 0.2


def test_one_image(run):
    asked = ["--prompt", "Which word do you see?", "--max-new-tokens", "4"]
    assert run("describe_image.py", str(ASSETS / "2-cafe.png"), *asked).strip() == "CAFE"


def test_several_images(run):
    images = [str(ASSETS / name) for name in ("2-cafe.png", "4-tall.png")]
    asked = ["--prompt", "Which image has a triangle?", "--max-new-tokens", "4"]
    assert run("several_images.py", *images, *asked).strip() == "second"
    assert run("several_images.py", *reversed(images), *asked).strip() == "first"


def test_batches_answer_as_one_by_one(run, images):
    together = run("batch_inference.py", *images, "--batch-size", "3", "--max-new-tokens", "6")
    assert together == run("batch_inference.py", *images, "--batch-size", "1", "--max-new-tokens", "6")
    assert re.findall(r"^(\w+)\.png: ", together, flags=re.MULTILINE) == ["red", "green", "blue"]


def test_few_shots(run):
    shots = [
        word for name in ("3-banner.png", "2-cafe.png") for word in ("--shot", str(ASSETS / name), CAPTIONS[name])
    ]
    said = run("few_shot_base_format.py", str(ASSETS / "4-tall.png"), *shots, "--query", "A large red")
    assert f"A large red {said.strip()}" == CAPTIONS["4-tall.png"]


def test_pixel_gradients_change_an_answer_that_noise_leaves(run, tmp_path):
    pytest.importorskip("captum")
    asked, noise, changed, *drawn = run("pixel_gradients.py", "--output", str(tmp_path / "drawn.png")).splitlines()
    answer = asked.rpartition("? ")[2]
    assert noise == f"noise of 8/255: {answer}"
    assert re.fullmatch(r"gradient, [1-8]/255: .+", changed) and not changed.endswith(f": {answer}")
    assert [line.partition(":")[0] for line in drawn] == ["saliency", "integrated gradients"]
    assert Image.open(tmp_path / "drawn.png").size == (4 * 211, 240)
