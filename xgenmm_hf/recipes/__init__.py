"""Shipped recipes: YAML files with the published settings, found by name or by path.

A recipe holds the options of a training stage (TRL's, the Trainer's and ours), `mixtures/` what a stage trains on, and
`accelerate/` how several devices share the work.
"""

import difflib
import re
import shutil
from pathlib import Path


RECIPES = Path(__file__).resolve().parent
SHARED = ("accelerate", "mixtures")


def names() -> list[str]:
    """Lists the shipped files: stage and size for recipes (`sft_4b`), folder and file for the others."""
    found = []
    for path in sorted(RECIPES.rglob("*.yaml")):
        folder = path.parent.name
        found.append(f"{folder}/{path.stem}" if folder in SHARED else f"{path.stem}_{folder}")
    return found


def find(name: str | Path, beside: Path | None = None) -> Path:
    """Returns the path of a recipe, a mixture or an accelerate config, given by name or path."""
    text = str(name)
    stem, _, size = text.removesuffix(".yaml").rpartition("_")
    places = [*([beside / text] if beside else []), Path(text).expanduser()]
    places += [RECIPES / text, RECIPES / f"{text}.yaml", RECIPES / size / f"{stem}.yaml"]
    for place in places:
        if place.is_file():
            return place
    close = difflib.get_close_matches(text, names(), n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; shipped are {', '.join(names())}."
    raise ValueError(f"There is no file and no shipped recipe {text}{hint}")


def describe(name: str) -> str:
    """Returns what a shipped file is for: the first sentence of its heading comment."""
    lines = []
    for line in find(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:])
    sentence = re.match(r".*?\.(?= |$)", " ".join(lines))
    return (sentence[0] if sentence else " ".join(lines)).rstrip(".")


def copy_files(name: str | Path, folder: Path) -> list[Path]:
    """Copies a shipped file, and the mixture of a recipe, to a folder for editing; returns the new paths."""
    import yaml

    source = find(name)
    target = folder / (f"{source.stem}_{source.parent.name}.yaml" if source.parent.name not in SHARED else source.name)
    pairs = {target: source}
    mixture = (yaml.safe_load(source.read_text(encoding="utf-8")) or {}).get("mixture")
    if mixture and Path(mixture).parent.name in SHARED:  # else it names data of the user's own
        pairs[folder / mixture] = find(mixture, beside=source.parent)
    for path, original in pairs.items():
        if path.exists() and path.read_bytes() != original.read_bytes():
            raise ValueError(f"{path} exists already with other contents; choose another folder.")
    for path, original in pairs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copyfile(original, path)
    return list(pairs)
