"""Every command of the docs' table of benchmarks, on stand-in data in the real schema, through the harness's own main.

VLMEvalKit's data are TSV files with base64 images and the columns that each set's class reads; lmms-eval's are parquet
files with the columns that each task's functions read, put in by a YAML that includes the task's own. Run them with
`make test-harnesses`; without the harnesses the tests are skipped.
"""

import base64
import io
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL, AutoModelForVision2Seq
from xgenmm_hf.cli.app import app
from xgenmm_hf.evaluation.harness import launch
from xgenmm_hf.evaluation.harness.benchmarks import BENCHMARKS, Benchmark
from xgenmm_hf.evaluation.harness.launch import HarnessRun, run_harness
from xgenmm_hf.inference.loading import load


IMAGES = sorted((Path(TINY_MODEL).parent / "images").glob("*.png"))[:3]
OPTIONS = {"batch_size": 1, "max_new_tokens": 8, "device": "cpu", "dtype": "float32"}
QUESTIONS = ("What color is the star?", "How many shapes are there?", "Is there a circle?", "What is in the image?")
YES_NO = ("MME", "POPE", "HallusionBench")
SEVERAL_IMAGES = ("BLINK", "MUIRBench", "MMMU_DEV_VAL", "SEEDBench2")
needs = {
    "vlmevalkit": pytest.mark.skipif(find_spec("vlmeval") is None, reason="VLMEvalKit is not installed"),
    "lmms-eval": pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed"),
}


def encoded(path: Path) -> str:
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").resize((160, 120)).save(buffer, format="JPEG", quality=95)
    return base64.b64encode(buffer.getvalue()).decode()


def rows_of(name: str) -> list[dict]:
    """Returns four rows with the columns that the class of a data set reads."""
    rows = []
    for number in range(4):
        image = encoded(IMAGES[number % 3])
        row = {
            "index": number,
            "image": image,
            "question": ("What color is the star?", "How many shapes are there?")[number % 2],
            "category": ("color", "count")[number % 2],
            "l2-category": "coarse",
            "split": "validation" if name.startswith("MMMU") else "2D" if name == "CV-Bench-2D" else "dev",
        }
        if name in SEVERAL_IMAGES:
            row["image"] = str([image, encoded(IMAGES[(number + 1) % 3])])
        if name in YES_NO:
            row |= {"question": f"{row['question']} Please answer yes or no.", "answer": ("Yes", "No")[number % 2]}
            row |= {"image_path": f"{number // 2}.jpg", "category": "color"} if name == "MME" else {}
            row |= {"index": f"VD_figure_x_{number // 2}_1_{number % 2}"} if name == "HallusionBench" else {}
        elif name in ("TextVQA_VAL", "OCRBench"):
            row |= {"answer": str(["cafe", "CAFE"]), "category": "Scene Text-centric VQA", "split": "val"}
        elif name in ("MathVista_MINI", "MMVet"):
            row |= {"answer": "3", "question_type": "free_form", "answer_type": "integer", "task": "x", "skills": "[]"}
        else:
            row |= {"A": "red", "B": "blue", "C": "3", "D": "5", "answer": "ABCD"[number]}
            row |= {"prompt": f"{row['question']} (A) red (B) blue", "source": "ADE20K"} if "CV-Bench" in name else {}
        rows.append(row)
    return rows


def run(benchmark: Benchmark, output: Path, *further: str, **options) -> None:
    names = [benchmark.data]
    run_harness(HarnessRun(benchmark.harness, names, TINY_MODEL, str(output), {**OPTIONS, **options}, further))


@pytest.fixture
def vlmevalkit(tmp_path, monkeypatch):
    """VLMEvalKit with its data in this folder, taken as it is whatever its checksum."""
    from vlmeval.dataset.image_base import ImageBaseDataset

    grad = torch.is_grad_enabled()
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("PRED_FORMAT", "tsv")
    prepare = ImageBaseDataset.prepare_tsv
    monkeypatch.setattr(ImageBaseDataset, "prepare_tsv", lambda self, url, file_md5=None: prepare(self, url))
    yield tmp_path
    torch.set_grad_enabled(grad)  # VLMEvalKit turns it off for good


@needs["vlmevalkit"]
@pytest.mark.parametrize("benchmark", [one for one in BENCHMARKS if one.harness == "vlmevalkit"], ids=lambda b: b.data)
def test_vlmevalkits_commands(vlmevalkit, tmp_path, benchmark):
    import pandas

    rows = rows_of(benchmark.data)
    pandas.DataFrame(rows).to_csv(tmp_path / f"{benchmark.data}.tsv", sep="\t", index=False)
    judged = benchmark.judge == "required"
    further = ("--mode", "infer") if judged else ("--judge", "exact_matching")
    output = tmp_path / "out"
    run(benchmark, output, *further)
    folder = output / "tiny"
    (file,) = folder.rglob(f"tiny_{benchmark.data}.tsv")
    predictions = pandas.read_csv(file, sep="\t")["prediction"]
    assert len(predictions) == 4
    assert predictions.notna().any()  # an answer may be empty
    prompt = json.loads((folder / launch.PROMPT_FILE).read_text())
    assert prompt["prompt"].endswith("<image> {question}<|end|>\n<|assistant|>\n")
    if not judged:
        metrics = json.loads((folder / "status.json").read_text())["datasets"][benchmark.data]["metrics"]
        assert metrics


@needs["vlmevalkit"]
def test_batches_give_the_same_predictions_and_a_failure_is_an_error(vlmevalkit, tmp_path):
    import pandas

    pandas.DataFrame(rows_of("MMStar")).to_csv(tmp_path / "MMStar.tsv", sep="\t", index=False)
    benchmark = next(one for one in BENCHMARKS if one.data == "MMStar")
    found = []
    for batch_size in (1, 3):
        run(benchmark, tmp_path / str(batch_size), "--judge", "exact_matching", batch_size=batch_size)
        (file,) = (tmp_path / str(batch_size)).rglob("tiny_MMStar.tsv")
        found.append(pandas.read_csv(file, sep="\t")["prediction"].tolist())
    assert found[0] == found[1]
    pandas.DataFrame([{"index": 0, "question": "?"}]).to_csv(tmp_path / "MMStar.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="VLMEvalKit did not score MMStar"):
        run(benchmark, tmp_path / "bad")


@needs["vlmevalkit"]
def test_the_shipped_wrapper_our_adapter_and_our_own_command_agree_on_textvqa(vlmevalkit, tmp_path, monkeypatch):
    """VLMEvalKit's wrapper writes a space behind an image, the chat template a line break; our adapter does both."""
    import pandas
    from vlmeval.dataset import build_dataset
    from vlmeval.vlm import xgen_mm

    rows = [{**row, "question": question} for row, question in zip(rows_of("TextVQA_VAL"), QUESTIONS, strict=True)]
    pandas.DataFrame(rows).to_csv(tmp_path / "TextVQA_VAL.tsv", sep="\t", index=False)
    benchmark = next(one for one in BENCHMARKS if one.data == "TextVQA_VAL")
    found = {}
    for name, image_end in (("wrapper's", " "), ("template's", "\n")):
        run(benchmark, tmp_path / name, "--mode", "infer", image_end=image_end)
        (file,) = (tmp_path / name).rglob("tiny_TextVQA_VAL.tsv")
        found[name] = [str(text) for text in pandas.read_csv(file, sep="\t")["prediction"]]
    assert len(set(found["wrapper's"])) > 1

    loaded = load(TINY_MODEL, dtype="float32")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.processor.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(sys.modules["transformers"], "AutoModelForVision2Seq", AutoModelForVision2Seq, raising=False)
    code = Path(xgen_mm.__file__).read_text(encoding="utf-8").replace("'cuda'", "'cpu'")
    module = types.ModuleType("vlmeval.vlm.xgen_mm_on_cpu")
    module.__package__ = "vlmeval.vlm"
    exec(compile(code, xgen_mm.__file__, "exec"), module.__dict__)
    wrapper = module.XGenMM(str(tmp_path / "model"), max_new_tokens=OPTIONS["max_new_tokens"])
    wrapper.model.float()
    data = build_dataset("TextVQA_VAL")
    prompts = [data.build_prompt(row) for row in range(len(rows))]
    assert found["wrapper's"] == [wrapper.generate_inner(prompt, "TextVQA_VAL").strip() for prompt in prompts]

    images = [next(part["value"] for part in prompt if part["type"] == "image") for prompt in prompts]
    facts = zip(rows, images, strict=True)
    own = [{"question_id": row["index"], "question": row["question"], "image": Path(path).name} for row, path in facts]
    (tmp_path / "own.json").write_text(json.dumps([{**row, "answers": ["x"] * 10} for row in own]))
    arguments = ["textvqa", tmp_path / "own.json", "--images", Path(images[0]).parent, "-o", tmp_path / "own"]
    arguments += ["--max-new-tokens", OPTIONS["max_new_tokens"], "--device", "cpu", "--dtype", "float32"]
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    samples = json.loads((tmp_path / "own" / "results.json").read_text())["samples"]
    assert found["template's"] == [sample["answer"] for sample in samples]


COLUMNS = {
    "qbench2_dev": {
        **{f"image{place}": "image" for place in (1, 2)},
        **{f"option{place}": ("red", "blue", "N/A", "N/A")[place] for place in range(4)},
        "question": "Which is sharper?",
        "correct_choice": "A",
        "id": "1",
        "question_type": 0,
        "question_concern": 0,
        "correct_ans": "A",
    },
    "mantis": {
        "images": ["image", "image"],
        "question": "Is <image> like <image>?",
        "options": "(A) yes (B) no",
        "answer": "A",
        "question_type": "multi-choice",
        "id": "1",
        "category": "x",
        "data_source": "x",
    },
}
INCLUDE = """
include: {task}
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    {split}: {file}
"""


@needs["lmms-eval"]
@pytest.mark.parametrize("benchmark", [one for one in BENCHMARKS if one.harness == "lmms-eval"], ids=lambda b: b.data)
def test_lmms_evals_commands(tmp_path, benchmark):
    import lmms_eval

    name = benchmark.data
    row = {}
    for column, value in COLUMNS[name].items():
        opened = [Image.open(path).convert("RGB").resize((160, 120)) for path in IMAGES[:2]]
        row[column] = opened[0] if value == "image" else opened if value == ["image", "image"] else value
    features = datasets.Dataset.from_list([row]).features
    datasets.Dataset.from_list([row, row], features=features).to_parquet(tmp_path / "data.parquet")
    (task,) = Path(lmms_eval.__file__).parent.glob(f"tasks/*/{name}.yaml")
    split = "dev" if name == "qbench2_dev" else "test"
    text = INCLUDE.format(task=task, name=f"{name}_standin", split=split, file=tmp_path / "data.parquet")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "standin.yaml").write_text(text)
    output = tmp_path / "out"
    run(benchmark._replace(data=f"{name}_standin"), output, "--include_path", str(tmp_path / "tasks"))
    (file,) = output.rglob("*_results.json")
    assert json.loads(file.read_text())["results"][f"{name}_standin"]
    (file,) = output.rglob(f"*_samples_{name}_standin.jsonl")
    assert len(file.read_text().splitlines()) == 2
    assert json.loads((output / launch.PROMPT_FILE).read_text())["prompt"].endswith("<|assistant|>\n")
    with pytest.raises(ValueError, match="lmms-eval did not score"):
        run(benchmark._replace(data=f"{name}_standin"), output, "--include_path", str(tmp_path / "tasks"), dtype="x")


def test_a_cloned_vlmevalkit_is_started_by_its_run_py(tmp_path, monkeypatch):
    (tmp_path / "vlmeval").mkdir()
    (tmp_path / "vlmeval" / "__init__.py").touch()
    (tmp_path / "run.py").write_text("import sys\nassert __name__ == '__main__'\nprint('got', *sys.argv[1:])")
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "vlmeval", raising=False)
    assert launch._vlmevalkit_main() == str(tmp_path / "run.py")
    launch._as_main(str(tmp_path / "run.py"), ["--data", "MME"])
    monkeypatch.delitem(__import__("sys").modules, "vlmeval", raising=False)
