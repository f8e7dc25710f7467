"""Who may import whom: xgenmm_hf -> conversion -> modeling, and modeling only what travels with a checkpoint."""

import ast
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
TRAVELS_WITH = {"torch", "transformers", "tokenizers", "einops", "PIL", "numpy", "packaging"}
TREES = {"modeling": "xgenmm_hf.modeling", "conversion": "xgenmm_hf.conversion", "xgenmm_hf": "xgenmm_hf"}
FILES = [path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))]
OTHERS = [path for tree in ("tests", "examples") for path in sorted((ROOT / tree).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Returns (level, module) of every import in a file; level counts the leading dots."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", FILES + OTHERS, ids=name_of)
def test_nobody_imports_the_second_set_of_classes(path):
    taken = [module for level, module in imports_of(path) if level == 0 and module.split(".")[0] in TREES]
    assert [module for module in taken if not within(module, "xgenmm_hf")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "modeling").glob("*.py")), ids=name_of)
def test_modeling_imports_only_siblings_and_what_travels_with_a_checkpoint(path):
    for level, module in imports_of(path):
        if level:
            assert level == 1 and module.endswith("_xgenmm"), f"from {'.' * level}{module}: name a sibling module"
        else:
            top = module.split(".")[0]
            assert top in TRAVELS_WITH or top in sys.stdlib_module_names, f"import {module}"


def test_modeling_is_flat():
    assert [path for path in (ROOT / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize("path", sorted((ROOT / "conversion").rglob("*.py")), ids=name_of)
def test_conversion_does_not_import_the_package_around_it(path):
    ours = [module for level, module in imports_of(path) if level == 0 and within(module, "xgenmm_hf")]
    allowed = ("xgenmm_hf.modeling", "xgenmm_hf.conversion")
    assert [module for module in ours if not any(within(module, package) for package in allowed)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_library_file_imports_torchvision_or_open_clip(path):
    banned = {"torchvision", "open_clip", "timm"}
    assert [module for _, module in imports_of(path) if module.split(".")[0] in banned] == []
