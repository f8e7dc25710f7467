"""Shipped recipes: YAML files with the published settings, found by name or by path.

A recipe holds the options of a training stage (TRL's, the Trainer's and ours), `mixtures/` what a stage trains on, and
`accelerate/` how several devices share the work.
"""

import difflib
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
    """Finds a recipe, a mixture or an accelerate config.

    Args:
        name: Path of a YAML file, or a shipped one's name: `sft_4b`, `4b/sft`, `mixtures/sft`, `accelerate/fsdp2`.
        beside: A folder in which relative paths are looked up too: that of the file which names this one.

    Returns:
        Its path.

    Raises:
        ValueError: If there is no such file; close names are suggested.
    """
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


def copy_files(name: str | Path, folder: Path) -> list[Path]:
    """Copies a shipped file to edit it; a recipe brings its mixture, where it will be found.

    Args:
        name: As for `find`.
        folder: Where to; made if it is missing.

    Returns:
        The files written.

    Raises:
        ValueError: If there is no such file, or a copy would replace one.
    """
    import yaml

    source = find(name)
    target = folder / (f"{source.stem}_{source.parent.name}.yaml" if source.parent.name not in SHARED else source.name)
    pairs = {target: source}
    mixture = (yaml.safe_load(source.read_text(encoding="utf-8")) or {}).get("mixture")
    if mixture and Path(mixture).parent.name in SHARED:  # else it names data of the user's own
        pairs[folder / mixture] = find(mixture, beside=source.parent)
    taken = [path for path in pairs if path.exists()]
    if taken:
        raise ValueError(f"{taken[0]} exists already; choose another folder.")
    for path, original in pairs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, path)
    return list(pairs)
