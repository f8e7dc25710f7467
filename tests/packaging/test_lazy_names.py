"""`import xgenmm_hf` is cheap, and its names appear when they are touched."""

import json
import os
import subprocess
import sys

import pytest

import xgenmm_hf


def run(code: str) -> str:
    """Runs code in a fresh interpreter outside the checkout and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=os.path.dirname(sys.executable)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import json, sys, xgenmm_hf; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(code))
    assert {"torch", "transformers", "numpy", "PIL", "xgenmm_hf.auto"}.isdisjoint(loaded)


def test_importing_every_cli_and_image_module_loads_nothing_heavy():
    code = (
        "import json, sys, xgenmm_hf.cli.app, xgenmm_hf.inference.source, xgenmm_hf.modeling.images_xgenmm;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert {"torch", "transformers", "safetensors", "huggingface_hub", "xgenmm_hf.auto"}.isdisjoint(
        json.loads(run(code))
    )


def test_touching_a_class_registers_the_family_and_answering_never_imports_torchvision():
    code = (
        "import sys, xgenmm_hf\n"
        "xgenmm_hf.XGenMMConfig\n"
        "assert 'xgenmm_hf.auto' in sys.modules\n"
        "from transformers import AutoConfig\n"
        "print(type(AutoConfig.for_model('xgenmm')).__module__)\n"
        "from PIL import Image\n"
        "loaded = xgenmm_hf.load(xgenmm_hf.TINY_MODEL)\n"
        "xgenmm_hf.ask(loaded, [Image.new('RGB', (40, 30))], 'What is this?', max_new_tokens=1)\n"
        "print('torchvision' in sys.modules, 'open_clip' in sys.modules)"
    )
    assert run(code).split() == ["xgenmm_hf.modeling.configuration_xgenmm", "False", "False"]


@pytest.mark.parametrize("name", [name for name in xgenmm_hf.__all__ if name != "__version__"])
def test_every_listed_name_resolves(name):
    if name.endswith("_page"):
        pytest.importorskip("gradio", reason="the page needs the extra demo")
    value = getattr(xgenmm_hf, name)
    assert isinstance(value, (str, tuple) if name.isupper() else type) or (name.islower() and callable(value))
    assert getattr(xgenmm_hf, name) is value


def test_vision2seq_is_the_library_class_of_this_line():
    import transformers

    old = getattr(transformers, "AutoModelForVision2Seq", None)
    expected = old if transformers.__version__.startswith("4.") else transformers.AutoModelForImageTextToText
    assert xgenmm_hf.AutoModelForVision2Seq is expected


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match=r"offers TINY_BASE_MODEL, TINY_MODEL, .*, XGenMMModel,"):
        _ = xgenmm_hf.XGenMMModle


def test_dir_lists_the_lazy_names():
    assert set(xgenmm_hf.__all__) <= set(dir(xgenmm_hf))


def test_tiny_model_is_a_path_inside_the_package():
    assert isinstance(xgenmm_hf.TINY_MODEL, str)
    assert xgenmm_hf.TINY_MODEL.startswith(os.path.dirname(os.path.abspath(xgenmm_hf.__file__)))
