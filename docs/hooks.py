"""What MkDocs needs to build the site from pages that also read well in the repository.

Notebooks and the changelog lie outside `docs/`: they become pages. Links to other files of the repository become their
names, since the site does not hold those files.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files


ROOT = Path(__file__).resolve().parents[1]
# What tests read behind a fence's language; a file's name becomes the block's title.
FENCE = re.compile(r"^```(\w+) (?:(?:file|parquet|tar)=(\S+))?[^\n]*$", re.M)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?:\.\./)+([^)#]+)(#[^)]*)?\)")


def on_pre_build(config: Any) -> None:
    """Copies the notebooks to where their plugin reads them; the copies are not part of the repository."""
    folder = ROOT / "docs" / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        shutil.copyfile(notebook, folder / notebook.name)


@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    """Adds the changelog and the page of the embedded models."""
    added = {"changelog.md": ROOT / "CHANGELOG.md"}
    added["embedded-models.md"] = ROOT / "examples" / "embedded_model" / "README.md"
    for uri, path in added.items():
        if path.exists():
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Points links that leave `docs/` to the pages made of those files, or leaves only their text."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri == "embedded-models.md":  # lies in examples/embedded_model
        markdown = re.sub(r"\]\(\.\./\.\./docs/([^)]+)\)", r"](\1)", markdown)

    def replace(found: re.Match[str]) -> str:
        image, text, target = found[1], found[2], found[3]
        uri = {"CHANGELOG.md": "changelog.md", "examples/embedded_model/README.md": "embedded-models.md"}.get(target)
        if target.startswith("examples/") and target.endswith(".ipynb"):
            uri = f"notebooks/{Path(target).name}"
        inside = f"{'../' * depth}{uri or target}"
        if uri is not None or (ROOT / "docs" / target).exists():
            return f"{image}[{text}]({inside}{found[4] or ''})"
        return text

    def as_title(found: re.Match[str]) -> str:
        return f"```{found[1]}" + (f' title="{found[2]}"' if found[2] else "")

    return FENCE.sub(as_title, LINK.sub(replace, markdown))
