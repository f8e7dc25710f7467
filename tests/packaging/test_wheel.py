"""What a wheel holds: the mapped packages and the data, and no generic name."""

import json
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import xgenmm_hf


ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("modeling", "conversion", "xgenmm_hf", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
CHECKPOINT = (
    "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Builds the wheel from a copy, so that neither build/ nor the egg-info of the checkout changes."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = subprocess.run([*command, "-w", out, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        yield archive


def test_only_the_package_is_at_the_top_level(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"xgenmm_hf", f"xgenmm_hf-{xgenmm_hf.__version__}.dist-info"}


def test_the_modules_are_those_of_the_checkout(wheel):
    expected = set()
    for tree, package in (("modeling", "xgenmm_hf/modeling"), ("conversion", "xgenmm_hf/conversion")):
        expected |= {f"{package}/{path.relative_to(ROOT / tree).as_posix()}" for path in (ROOT / tree).rglob("*.py")}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "xgenmm_hf").rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected


def test_data_files_are_there(wheel):
    assets = {path for path in (ROOT / "xgenmm_hf" / "assets").rglob("*") if path.is_file()}
    data = {*assets, *(ROOT / "xgenmm_hf").rglob("*.yaml"), ROOT / "xgenmm_hf" / "py.typed"}
    names = {path.relative_to(ROOT).as_posix() for path in data if "__pycache__" not in path.parts}
    assert names - set(wheel.namelist()) == set()
    assert "xgenmm_hf/assets/tiny/config.json" in names


def test_assets_are_the_two_checkpoints_the_images_and_the_report_page(wheel):
    folder = "xgenmm_hf/assets"
    images = [row["image"] for row in json.loads(wheel.read(f"{folder}/images/images.json"))]
    expected = {f"{folder}/report.html", *(f"{folder}/images/{name}" for name in ("images.json", *images))}
    expected |= {f"{folder}/{model}/{name}" for model in ("tiny", "tiny_base") for name in CHECKPOINT}
    expected.add(f"{folder}/tiny/chat_template.jinja")
    assert {name for name in wheel.namelist() if name.startswith(f"{folder}/")} == expected


def test_metadata(wheel):
    read = {name.rsplit("/", 1)[-1]: wheel.read(name).decode() for name in wheel.namelist() if "dist-info/" in name}
    metadata = HeaderParser().parsestr(read["METADATA"])
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra")) == {
        "train", "openclip", "eval", "serve", "demo", "quant", "research", "dev"
    }  # fmt: skip
    needed = [value for value in metadata.get_all("Requires-Dist") if "extra ==" not in value]
    assert "transformers<6,>=4.57.1" in needed
    assert "torch" in needed
    assert not any(value.startswith(("torchvision", "open_clip", "trl")) for value in needed)
    assert "xgenmm = xgenmm_hf.cli.app:main" in read["entry_points.txt"]
    assert "Apache License" in read["LICENSE"]
