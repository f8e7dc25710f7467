"""The example uses what the package names in public, and the package uses nothing of the examples."""

import ast
from pathlib import Path

import pytest

import xgenmm_hf


ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted([*(ROOT / "examples").rglob("*.py")])
LIBRARY = sorted(file for folder in ("modeling", "conversion", "xgenmm_hf") for file in (ROOT / folder).rglob("*.py"))


def imported(file: Path) -> set[tuple[str, str]]:
    """Returns (module, name) of every import of a file; the name is empty for `import module`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: str(file.relative_to(ROOT / "examples")))
def test_examples_import_public_names_only(script):
    for module, name in imported(script):
        if module.split(".")[0] == "xgenmm_hf":
            assert module in ("xgenmm_hf", "xgenmm_hf.auto"), f"{script.name} imports {module}"
            assert name in ("", *xgenmm_hf.__all__)


@pytest.mark.parametrize("script", [*ROOT.glob("examples/*.py")], ids=lambda file: file.name)
def test_scripts_hold_no_drawing_code(script):
    for module, name in imported(script):
        assert not module.startswith("embedded_model"), f"{script.name} imports {module}"
        assert "ImageDraw" not in (*module.split("."), name), f"{script.name} draws with PIL"


def test_the_package_imports_no_example():
    examples = {file.stem for file in (ROOT / "examples").glob("*.py")} | {"embedded_model", "examples"}
    for file in LIBRARY:
        assert not examples & {module.split(".")[0] for module, _ in imported(file)}, file
