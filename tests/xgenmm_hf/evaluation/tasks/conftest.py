"""A folder with small images, and ways to write data files into it."""

import io
import json

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def image(folder):
    """Writes an image and returns its path in the folder."""

    def write(name, color="red"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), color).save(path, "JPEG" if path.suffix == ".jpg" else "PNG")
        return name

    return write


@pytest.fixture
def encoded():
    """Returns the bytes of an image."""

    def encode(color="red"):
        file = io.BytesIO()
        Image.new("RGB", (6, 4), color).save(file, "PNG")
        return file.getvalue()

    return encode


@pytest.fixture
def write_json(folder):
    def write(name, value):
        path = folder / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_lines(folder):
    def write(name, rows):
        path = folder / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return path

    return write


@pytest.fixture
def write_parquet(folder):
    def write(name, rows):
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / name
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write
