"""Small original checkpoints for the conversion tests."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file


ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
ORIGINAL = ROOT.parent / "shared" / "original"


def load_openclip_maker() -> ModuleType:
    """Returns the script that builds OpenCLIP towers, as a module."""
    spec = importlib.util.spec_from_file_location("make_openclip_fixtures", Path(__file__).parent / MAKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # timm looks up where a model was registered
    spec.loader.exec_module(module)
    return module


MAKER = "make_openclip_fixtures.py"
OPEN_CLIP_INSTALLED = all(importlib.util.find_spec(package) is not None for package in ("open_clip", "timm"))
if OPEN_CLIP_INSTALLED:
    # Before any test imports Transformers: beside a torchvision without operators that import fails too.
    load_openclip_maker().import_open_clip()


@pytest.fixture(scope="session")
def openclip_maker() -> ModuleType:
    """Builds OpenCLIP towers, where open_clip and timm are installed."""
    if not OPEN_CLIP_INSTALLED:
        pytest.skip("open_clip_torch and timm are not installed")
    return load_openclip_maker()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The original's numbers."""
    return FIXTURES / "golden"


@pytest.fixture(scope="session")
def openclip_fixtures() -> Path:
    """Small OpenCLIP towers and their features; see make_openclip_fixtures.py."""
    return FIXTURES / "openclip"


@pytest.fixture(scope="session")
def real_checkpoint() -> Path:
    """Names, configs and tokenizer of a released checkpoint."""
    if not ORIGINAL.is_dir():
        pytest.skip("the released checkpoint's files are not here")
    return ORIGINAL


@pytest.fixture(scope="session")
def golden_tensors(golden: Path) -> dict[str, torch.Tensor]:
    """The golden checkpoint's tensors by their original name."""
    return load_file(golden / "anyres" / "checkpoint" / "model.safetensors")


@pytest.fixture
def source(tmp_path: Path, golden: Path) -> Path:
    """A writable copy of the golden checkpoint (layout a, one file)."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in (golden / "anyres" / "checkpoint").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture
def sharded_source(source: Path, golden_tensors: dict[str, torch.Tensor]) -> Path:
    """The same in two shards with an index."""
    (source / "model.safetensors").unlink()
    names = sorted(golden_tensors)
    halves = (names[:60], names[60:])
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: golden_tensors[name] for name in half}, source / file)
        weight_map.update(dict.fromkeys(half, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    return source


@pytest.fixture
def training_checkpoint(tmp_path: Path, golden: Path, golden_tensors: dict[str, torch.Tensor]) -> Path:
    """Layout c: wrapped names, no vision tower, counters beside the weights; its configs lie beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    state = {}
    for name, tensor in golden_tensors.items():
        plain = name.removeprefix("vlm.")
        if not plain.startswith("vision_encoder."):
            plain = plain.replace(".mlp.", "._checkpoint_wrapped_module.mlp.")
            state[f"module.{plain}"] = tensor
    torch.save({"epoch": 3, "step": 700, "model_state_dict": state}, folder / "checkpoint_3.pt")
    for name in ("config.json", "vision_config.json"):
        shutil.copyfile(golden / "anyres" / "checkpoint" / name, folder / name)
    return folder


@pytest.fixture
def siglip_folder(tmp_path: Path, golden: Path, golden_tensors: dict[str, torch.Tensor]) -> Path:
    """The golden tower as a Transformers folder of a SiglipVisionModel, names with `vision_model.`."""
    folder = tmp_path / "siglip"
    folder.mkdir()
    prefix = "vlm.vision_encoder."
    tower = {
        "vision_model." + name.removeprefix(prefix): tensor
        for name, tensor in golden_tensors.items()
        if name.startswith(prefix)
    }
    save_file(tower, folder / "model.safetensors")
    shutil.copyfile(golden / "anyres" / "checkpoint" / "vision_config.json", folder / "config.json")
    return folder
