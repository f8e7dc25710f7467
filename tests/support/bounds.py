"""Makes an environment with the lower bounds of setup.py, or with the newest release of everything but PyTorch.

python tests/support/bounds.py oldest|newest FOLDER

PyTorch is the version of constraints.txt in both, since its newest build for Linux is a download of gigabytes. What
was installed is printed at the end.
"""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]


def requirements() -> list[str]:
    """Returns what the package and its `dev` extra ask for, from the package's own metadata."""
    code = (
        "import setuptools\nfound = {}\nsetuptools.setup = found.update\n"
        "exec(open('setup.py').read(), {'__file__': 'setup.py', '__name__': '__main__'})\n"
        "print('\\n'.join([*found['install_requires'], *found['extras_require']['dev']]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return list(dict.fromkeys(done.stdout.split("\n")[:-1]))


def at_lower_bound(requirement: str) -> str:
    """Turns `name>=1.2,<3` into `name==1.2`; what has no lower bound stays, and so does the build tool."""
    name, marker = (*requirement.split(";"), "")[:2]
    bound = re.fullmatch(r"([\w.\[\]-]+)>=([\w.]+)(,.*)?", name.replace(" ", ""))
    pinned = name if bound is None or bound[1] == "setuptools" else f"{bound[1]}=={bound[2]}"
    return f"{pinned};{marker}" if marker else pinned


def main(kind: str, folder: str) -> None:
    """Makes the environment and prints what is in it."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(Path(folder) / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    wanted = [at_lower_bound(one) if kind == "oldest" else one for one in requirements()]
    subprocess.run([*install, torch], check=True)
    subprocess.run([*install, *([] if kind == "oldest" else ["--upgrade"]), torch, *wanted], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
    subprocess.run([python, "-m", "pip", "list", "--disable-pip-version-check", "--format", "freeze"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
