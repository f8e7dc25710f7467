"""The examples of docs/data-formats.md: each file becomes exactly the rows that stand below it."""

import io
import json
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xgenmm_hf import load_rows
from xgenmm_hf.data.mixture import load_mixture


DOC = Path(__file__).resolve().parents[3] / "docs" / "data-formats.md"
BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, format="PNG")
    return file.getvalue()


def examples() -> list[tuple[str, str, str, list[dict]]]:
    """Returns (layout, file name, its content, its rows) of every example."""
    found: list[tuple[str, str, str, list[dict]]] = []
    for block in BLOCK.finditer(DOC.read_text(encoding="utf-8")):
        info, body = block["info"].split(), block["body"]
        if info[1:] == ["row"]:
            found[-1][3].append(json.loads(body))
        elif len(info) == 2 and info[0] != "yaml":
            layout, name = info[1].split("=")
            found.append((layout, name, body, []))
    return found


def write_file(folder: Path, layout: str, name: str, body: str) -> Path:
    file = folder / name
    if layout == "file":
        file.write_text(body, encoding="utf-8")
    elif layout == "parquet":
        pq.write_table(pa.Table.from_pylist([with_bytes(json.loads(body))]), file)
    else:
        with tarfile.open(file, "w") as archive:
            for member, content in json.loads(body).items():
                data = png() if content == "PNG" else content.encode()
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file


def with_bytes(value):
    """Replaces the bytes that the doc writes as "PNG"."""
    if isinstance(value, dict):
        return {key: png() if (key, item) == ("bytes", "PNG") else with_bytes(item) for key, item in value.items()}
    return [with_bytes(item) for item in value] if isinstance(value, list) else value


def in_folder(row: dict, folder: Path) -> dict:
    """Writes the paths of images on disk as they are resolved."""
    images = [image if image["bytes"] else {**image, "path": str(folder / image["path"])} for image in row["images"]]
    return {**row, "images": images}


@pytest.mark.parametrize(("layout", "name", "body", "rows"), examples(), ids=lambda value: str(value)[:20])
def test_an_example(tmp_path, layout, name, body, rows):
    file = write_file(tmp_path, layout, name, body)
    loaded = load_rows("auto", file, cache_dir=tmp_path / "cache")
    assert rows
    assert list(loaded.dataset) == [in_folder(with_bytes(row), tmp_path) for row in rows]
    assert (loaded.report.rejected, loaded.report.skipped) == ({}, {})
    streamed = load_rows("auto", file, streaming=True)
    assert list(streamed.dataset) == list(loaded.dataset)


def test_every_format_has_an_example(tmp_path):
    from xgenmm_hf.data.adapters import ADAPTERS

    files = (write_file(tmp_path, layout, name, body) for layout, name, body, _ in examples())
    assert {load_rows("auto", file, streaming=True).report.format for file in files} == set(ADAPTERS)


@pytest.mark.parametrize(("name", "rows"), [("samples.yaml", 3 + 1 + 2), ("weights.yaml", None)])
def test_the_mixtures(tmp_path, name, rows):
    for layout, file, body, _ in examples():
        write_file(tmp_path, layout, file, body)
    (tmp_path / "other").mkdir()
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    (tmp_path / "other" / "text.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    blocks = BLOCK.finditer(DOC.read_text(encoding="utf-8"))
    (tmp_path / name).write_text(next(block["body"] for block in blocks if block["info"] == f"yaml file={name}"))
    mixture = load_mixture(tmp_path / name, cache_dir=tmp_path / "cache")
    assert len(mixture.dataset) == rows or rows is None
    if rows is None:
        assert [round(source.weight, 3) for source in mixture.sources] == [0.667, 0.333]
    else:
        assert mixture.dataset[0]["images"][0]["path"] == "/data/coco/1.jpg"
