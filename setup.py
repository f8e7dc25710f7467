"""Packaging of xgenmm-hf.

The checkout keeps its model code in ``modeling/`` and its conversion code in ``conversion/``; installed, they are
``xgenmm_hf.modeling`` and ``xgenmm_hf.conversion``, so that no generic name lands in site-packages.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


HERE = Path(__file__).resolve().parent
MAPPED = {"xgenmm_hf.modeling": "modeling", "xgenmm_hf.conversion": "conversion"}


def read_version() -> str:
    """Returns the version that ``xgenmm_hf/__init__.py`` states (it is written down only there)."""
    text = (HERE / "xgenmm_hf" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('xgenmm_hf/__init__.py must hold one line of the form: __version__ = "1.2.3"')
    return match.group(1)


def list_packages() -> list[str]:
    """Returns every package of the wheel: those under ``xgenmm_hf/`` and the two mapped ones with what is in them."""
    packages = find_packages(include=["xgenmm_hf", "xgenmm_hf.*"])
    for name, folder in MAPPED.items():
        packages.append(name)
        packages += [f"{name}.{child}" for child in find_packages(folder)]
    return packages


TRAIN = [
    "trl>=1.14,<1.17",  # ceilings: see tests/packaging/test_library_names.py
    "peft>=0.17,<0.22",
    "accelerate>=1.10,<1.16",
    "datasets>=4.7",
    "matplotlib>=3.9",
    "pyarrow>=21",
    "pyyaml>=6.0.2",
    "tensorboard>=2.16.2",  # 2.16.0 brings a nightly TensorFlow
]
OPENCLIP = ["open_clip_torch>=2.24"]
EVAL = ["datasets>=4.7", "matplotlib>=3.9", "pyarrow>=21", "pycocoevalcap>=1.2", "pyyaml>=6.0.2"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20"]
DEMO = ["gradio>=6,<7"]
RESEARCH = ["captum>=0.9"]
QUANT = ["torchao>=0.18", "bitsandbytes>=0.50"]
DEV = [
    *TRAIN,
    *EVAL,
    *SERVE,
    *RESEARCH,
    "build",
    "hypothesis",
    "mypy",
    "openai>=1.60",
    "parameterized",
    "protobuf",
    "pytest",
    "pytest-xdist",
    "ruff",
    "sentencepiece",
    "setuptools>=68",
    "textual-image>=0.8",
    "wheel",
]

setup(
    name="xgenmm-hf",
    version=read_version(),
    description="xGen-MM (BLIP-3) as a Transformers-native model family: load, convert, run, fine-tune.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="The xgenmm-hf authors",
    project_urls={
        "Report": "https://arxiv.org/abs/2408.08872",
        "Released models": "https://huggingface.co/Salesforce/xgen-mm-phi3-mini-instruct-r-v1",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=list_packages(),
    package_dir=MAPPED,
    package_data={"xgenmm_hf": ["py.typed", "assets/**/*", "recipes/*.yaml", "recipes/**/*.yaml"]},
    include_package_data=False,
    install_requires=[
        "transformers>=4.57.1,<6",
        "torch",
        "accelerate>=1.10,<1.16",
        "einops>=0.8",
        "filelock",
        "huggingface_hub",
        "jinja2>=3.1",
        "numpy",
        "pillow>=11",
        "rich>=14.3",
        "safetensors>=0.4.3",
        "typer>=0.26",
    ],
    extras_require={
        "train": TRAIN,
        "openclip": OPENCLIP,
        "eval": EVAL,
        "serve": SERVE,
        "demo": DEMO,
        "quant": QUANT,
        "research": RESEARCH,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["xgenmm = xgenmm_hf.cli.app:main"],
        "lmms_eval.models": ["xgenmm = xgenmm_hf.evaluation.harness:manifest"],
        "vllm.general_plugins": ["xgenmm = xgenmm_hf.engines:register_in_vllm"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
