"""``xgenmm recipes``: the shipped recipes, and a copy of one to edit."""

from pathlib import Path
from typing import Annotated

from typer import Argument


def recipes(
    name: Annotated[str | None, Argument(metavar="NAME", help="A shipped file: print its path, or copy it.")] = None,
    out: Annotated[
        str | None, Argument(metavar="FOLDER", help="Copy it here, together with the mixture that it names.")
    ] = None,
) -> None:
    """List the shipped recipes, mixtures and accelerate configs, or copy one to edit."""
    from xgenmm_hf import recipes as shipped

    if name is None:
        names = shipped.names()
        width = max(map(len, names))
        print("\n".join(f"{name:<{width}}  {shipped.describe(name)}" for name in names))
    elif out is None:
        print(shipped.find(name))
    else:
        print("\n".join(str(path) for path in shipped.copy_files(name, Path(out))))
