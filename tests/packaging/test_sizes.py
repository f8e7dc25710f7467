"""Sizes that keep the code readable: a file has one reason to change, a function fits a screen."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 60
FILES = [path for tree in ("modeling", "conversion", "xgenmm_hf") for path in sorted((ROOT / tree).rglob("*.py"))]


def lines_of_code(function):
    """Returns the lines of a function without its docstring."""
    first = function.body[0] if ast.get_docstring(function) is not None else None
    said = first.end_lineno - first.lineno + 1 if first is not None else 0
    return function.end_lineno - function.lineno + 1 - said


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    functions = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    sizes = {node.name: lines_of_code(node) for node in functions}
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}
