"""Every code block of README.md and docs/*.md is executed, page by page, in the order in which it stands there.

- Python blocks run in this process, one namespace a page, in a folder that holds what the pages name (`photo.jpg`,
  `converted/`, ...). Blocks with `file=NAME` are files of that folder.
- In shell blocks, `xgenmm` commands run through the command line's test runner. Commands with something to fill in
  (`MODEL`, `[--json]`), and verbs that last (`serve`, `train`, ...) are checked: the verb and every option must exist.
  Of other programs, what belongs to the repository is checked: make targets, scripts, modules, extras.
- `<!-- not run: REASON -->` above a block that needs a GPU, the network or large weights: it is checked as far as said
  above, and Python must parse and import what exists. `<!-- Transformers 4.x only -->`: run on that line.
"""

import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.cli.app import app
from xgenmm_hf.modeling.compat_xgenmm import IS_V5


ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
LASTING = {"serve", "chat", "demo", "train", "bench", "eval"}
FILL_IN = re.compile(r"\[|\.\.\.|(?<![\w./-])[A-Z][A-Z_]+(?:\.json|:latest)?(?![\w/])")


@dataclass(frozen=True)
class Block:
    """A code block: what stands above it, behind the fence, in it, and at which line."""

    mark: str
    info: list[str]
    body: str
    line: int

    @property
    def runs(self) -> bool:
        if self.mark.startswith("not run: "):
            return False
        return not (IS_V5 and self.mark.startswith("Transformers 4.x only"))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["mark"] or "", found["info"].split(), found["body"], text.count("\n", 0, found.start("body")) + 1)
        for found in BLOCK.finditer(text)
    ]


def commands_of(body: str) -> list[list[str]]:
    """Splits a shell block into commands, without comments, line breaks, variables in front and `&`."""
    commands = []
    for line in body.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|", ";", "&"):
                commands += [words] if words else []
                words = []
            elif words or not re.fullmatch(r"\w+=.*", word):
                words.append(word)
    return commands


def join_synopsis(body: str) -> str:
    """Puts a command's usage on one line: there, what follows the first line is indented."""
    return re.sub(r"\n[ \t]+", " ", body)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """What a converted checkpoint looks like: the embedded model with the model code beside it."""
    folder = tmp_path_factory.mktemp("converted")
    XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL).save_pretrained(folder)
    XGenMMProcessor.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(tmp_path, monkeypatch, converted):
    """Returns a function that fills the working folder with what a page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def furnish(page: Path) -> None:
        image = Image.open(ROOT / "xgenmm_hf/assets/images/1-shapes.png").convert("RGB").resize((120, 90))
        for name in ("photo.png", "photo.jpg", "image.png", "image.jpg", "a.png", "b.png"):
            image.save(name)
        Path("xgenmm_hf").mkdir()
        Path("xgenmm_hf/assets").symlink_to(ROOT / "xgenmm_hf/assets")
        Path("examples").symlink_to(ROOT / "examples")
        Path("converted").symlink_to(converted)
        for block in blocks_of(page):
            for name in (word.removeprefix("file=") for word in block.info if word.startswith("file=")):
                Path(name).write_text(block.body, encoding="utf-8")
        things = [{"id": index, "name": name} for index, name in enumerate("abcdefgh")]
        images = [{"id": index, "file_name": f"{index}.jpg"} for index in range(500)]
        found = [{"image_id": index, "category_id": (index + step) % 8} for index in range(500) for step in (0, 1, 3)]
        content = {"categories": things, "images": images, "annotations": found}
        Path("instances_val2014.json").write_text(json.dumps(content), encoding="utf-8")

    return furnish


def names_for(page: Path) -> dict:
    """Returns what blocks take for granted: an image, a prompt, a loaded model."""
    image, prompt = Image.open("photo.png").convert("RGB"), "<image>\nWhat is this?"
    names = {"image": image, "images": [image], "prompt": prompt, "text": prompt}
    if re.search(r"\bloaded\.model\b", page.read_text(encoding="utf-8")):
        from xgenmm_hf.inference.loading import load

        names["loaded"] = load(TINY_MODEL, device="cpu")
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, workspace):
    workspace(page)
    names = names_for(page)
    for block in blocks_of(page):
        place = f"{page.name}, line {block.line}"
        language = block.info[0] if block.info else ""
        if language == "python" and block.runs:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("\n" * (block.line - 1) + block.body, str(page), "exec"), names)
        elif language == "python":
            check_python(block.body, place)
        elif language in ("sh", "bash", "shell", "console"):
            for command in commands_of(join_synopsis(block.body)):
                run_command(command, block.runs, place)
        elif block.info == ["json"]:
            json.loads(block.body)
        elif block.info == ["yaml"]:
            yaml.safe_load(block.body)


def run_command(words: list[str], runs: bool, place: str) -> None:
    program, *arguments = words
    name = Path(program).name
    if name == "xgenmm":
        verb = next((word for word in arguments if not word.startswith("-")), "")
        if runs and verb not in LASTING and not any(FILL_IN.search(word) for word in arguments):
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{place}: {shlex.join(words)}\n{done.output}"
        else:
            check_options(arguments, place)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        assert not unknown, f"{place}: no such target: {unknown}"
    elif name in ("python", "python3", "accelerate", "torchrun"):
        check_launch(arguments, place)
    elif name == "pip":
        extras = {
            extra
            for found in re.findall(r"(?:\.|xgenmm-hf)\[([\w,]+)\]", " ".join(words))
            for extra in found.split(",")
        }
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert not [extra for extra in extras if f'"{extra}":' not in setup], f"{place}: no such extra in {extras}"


def check_options(arguments: list[str], place: str) -> None:
    """Checks a command that is not run: its verb, and its options' names."""
    words = [word.strip("[]().|,") for word in arguments]
    verbs = typer.main.get_command(app).commands
    verb = next((word for word in words if word and not word.startswith("-")), "")
    assert verb in verbs or verb.isupper(), f"{place}: there is no xgenmm {verb}"
    if verb.isupper() or verbs[verb].context_settings.get("ignore_unknown_options"):
        return
    known = {name for option in verbs[verb].params for name in (*option.opts, *option.secondary_opts)} | {
        "--help",
        "-h",
    }
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert not [word for word in given if word not in known], (
        f"{place}: xgenmm {verb} knows {sorted(known)}, not {given}"
    )


def check_launch(arguments: list[str], place: str) -> None:
    """Checks that our scripts and modules that are started exist."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "-m" and word.startswith("xgenmm_hf"):
            assert importlib.util.find_spec(word), f"{place}: there is no module {word}"
        elif word.startswith(("examples/", "tests/")):
            assert (ROOT / word).exists(), f"{place}: there is no {word}"


def check_python(body: str, place: str) -> None:
    """Checks Python that is not run: it parses, and what it imports from this package exists."""
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xgenmm_hf"):
            unknown = [alias.name for alias in node.names if not offers(node.module, alias.name)]
            assert not unknown, f"{place}: {node.module} has no {', '.join(unknown)}"


def offers(module: str, name: str) -> bool:
    """Tells whether a module has a name, also one whose own imports are not installed here."""
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("xgenmm_hf"):
            return False
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    return any(getattr(node, "name", None) == name for node in ast.parse(source).body)


def python_of(page: Path) -> str:
    """Returns the Python of a page's or a notebook's code."""
    if page.suffix == ".md":
        return "".join(block.body for block in blocks_of(page) if block.info[:1] == ["python"])
    code = [
        cell["source"] for cell in json.loads(page.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
    ]
    return "\n".join("".join(line for line in lines if not line.startswith(("!", "%"))) for lines in code)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("examples/**/*.ipynb"))], ids=lambda page: page.name)
def test_code_imports_what_the_page_of_public_names_lists(page):
    public = re.findall(r"`(?:python -m )?(xgenmm_hf[\w.]*)`", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    for node in ast.walk(ast.parse(python_of(page))):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module] if isinstance(node, ast.ImportFrom) else []
        deeper = [name for name in imported if name.startswith("xgenmm_hf.") and name not in public]
        assert not deeper, f"{page.name} imports {', '.join(deeper)}, which docs/api.md does not list"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in re.findall(r"^#.*$", text, re.M)
    }
    assert not set(re.findall(r"\]\(#([^)]+)\)", text)) - headings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    trees = "modeling|conversion|xgenmm_hf|examples|tests|docs"
    named = re.findall(rf"`((?:{trees})/[\w./-]*\w)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index]


def literals() -> list[str]:
    """Returns every text in the code, with `...` where values are put in."""
    found = []
    for tree in ("modeling", "conversion", "xgenmm_hf"):
        for file in (ROOT / tree).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_messages_in_the_troubleshooting_are_those_of_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    known = " ".join(" ".join(literals()).split())
    messages = re.findall(r"^### `(.+)`$", page, flags=re.M)
    assert len(messages) > 15
    fragments = [part.strip() for message in messages for part in re.split(r"\.\.\.", message)]
    assert not [part for part in fragments if len(part) > 3 and part not in known]


def test_readers_of_blocks():
    assert commands_of("A=1 xgenmm ask a.png \\\n  -p 'x y'  # why\n\ncd x && make demo &\n") == [
        ["xgenmm", "ask", "a.png", "-p", "x y"],
        ["cd", "x"],
        ["make", "demo"],
    ]
    assert [bool(FILL_IN.search(word)) for word in ("MODEL", "[--x", "path/to/A-B", "WxH", "IMAGE...")] == [
        1,
        1,
        0,
        0,
        1,
    ]
    with pytest.raises(AssertionError, match="not \\['--nope'\\]"):
        check_options(["info", "--nope"], "here")
    with pytest.raises(AssertionError, match="there is no xgenmm nope"):
        check_options(["nope"], "here")
