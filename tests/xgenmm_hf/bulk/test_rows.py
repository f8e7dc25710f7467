"""Every kind of source gives the same images, and a row without one says so."""

import io
import json
import tarfile

import pytest
from PIL import Image

from xgenmm_hf.bulk.rows import count_rows, read_rows
from xgenmm_hf.data.image_refs import open_image


def pixels(rows) -> list[tuple]:
    return [[open_image(ref).tobytes() for ref in row.images] for row in rows if row.problem is None]


@pytest.fixture
def files(drawn):
    (drawn / "1" / "007.png").unlink()
    return sorted(drawn.rglob("*.png"))


def test_every_source_gives_the_images_of_the_folder(drawn, files, tmp_path):
    from datasets import Dataset
    from datasets import Image as ImageFeature

    expected = pixels(read_rows(drawn))
    assert len(expected) == 17 == count_rows(drawn)
    names = [str(path.relative_to(drawn)) for path in files]
    (drawn / "rows.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    (drawn / "rows.csv").write_text("image,caption\n" + "".join(f"{name},text\n" for name in names))
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for path in files:
            archive.add(path, path.name)
        archive.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    data = Dataset.from_dict({"image": [str(path) for path in files]}).cast_column("image", ImageFeature())
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    sources = [drawn / "rows.jsonl", drawn / "rows.csv", tmp_path / "shard-*.tar", tmp_path / "saved"]
    for source in (*sources, tmp_path / "rows.parquet"):
        assert pixels(read_rows(source)) == expected, source
    assert count_rows(drawn / "rows.jsonl") == count_rows(tmp_path / "rows.parquet") == 17


def test_rows_of_an_archive_hold_places(files, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(files[0], "x/one.png")
    (row,) = read_rows(tmp_path / "a.tar")
    assert row.name == "a.tar/x/one.png" and row.images[0]["bytes"] is None


def test_paths_start_at_the_data_file_or_at_a_root_and_stay_there(drawn, tmp_path):
    lines = [{"id": "a", "image": "0/000.png"}, {"id": "b", "image": "../secret.png"}, {"id": "c", "text": "no image"}]
    lines.append({"id": "d", "images": ["0/000.png", str(drawn / "0" / "002.png")]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    first, leaving, without, several, broken = read_rows(tmp_path / "rows.jsonl", image_root=drawn)
    assert (first.name, len(first.images), first.problem) == ("a", 1, None)
    assert "leaves its root" in leaving.problem and "no image" in without.problem
    assert len(several.images) == 2 and "not JSON" in broken.problem
    assert open_image(several.images[1]).size == Image.open(drawn / "0" / "002.png").size


def test_an_empty_folder_says_so(naming, tmp_path):
    from xgenmm_hf.bulk.running import generate

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="There is no image in"):
        generate(tmp_path / "empty", tmp_path / "out.jsonl", naming)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("name", "said"), [("nowhere/at/all", "nothing at"), ("a.bin", "neither an image nor")])
def test_what_is_no_source(tmp_path, name, said):
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=said):
        list(read_rows(tmp_path / name))
