"""Who may import whom inside the package: no arrow up, and nothing of the examples."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xgenmm_hf"
LIBRARY = [path for tree in ("modeling", "conversion", "xgenmm_hf") for path in sorted((ROOT / tree).rglob("*.py"))]
# What each folder must not import: a layer above it.
FORBIDDEN = {
    "data": ("xgenmm_hf.training", "xgenmm_hf.evaluation", "xgenmm_hf.serving", "xgenmm_hf.demo"),
    "evaluation": ("xgenmm_hf.training", "xgenmm_hf.serving", "xgenmm_hf.demo"),
    "inference": ("xgenmm_hf.training", "xgenmm_hf.evaluation", "xgenmm_hf.serving", "xgenmm_hf.demo"),
    "training": ("xgenmm_hf.serving", "xgenmm_hf.demo"),
    "serving": ("xgenmm_hf.training", "xgenmm_hf.demo"),
}
MAX_LIBRARY_LINES = 20_834  # this number only goes down


def modules_of(path: Path) -> set[str]:
    """Returns the absolute modules that a file imports, also inside functions; `from a import b` counts as a.b too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_points_up(path):
    modules = modules_of(path)
    folder = path.relative_to(PACKAGE).parts[0] if path.is_relative_to(PACKAGE) else path.relative_to(ROOT).parts[0]
    forbidden = ["examples", "embedded_model", *FORBIDDEN.get(folder, ())]
    if folder != "cli":
        forbidden.append("xgenmm_hf.cli")
    assert [module for module in modules for package in forbidden if within(module, package)] == []


def test_the_library_does_not_grow():
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in LIBRARY) <= MAX_LIBRARY_LINES
