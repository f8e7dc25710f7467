"""examples/data is what the factory draws, in forms that the adapters read whole."""

from pathlib import Path

from embedded_model.sample_data import NUM_IMAGES, write_sample_data
from PIL import Image

from xgenmm_hf import load_mixture, load_rows


DATA = Path(__file__).resolve().parents[3] / "examples" / "data"


def test_the_files_are_those_that_are_written(tmp_path):
    write_sample_data(tmp_path)
    names = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.*"))
    assert names == sorted(file.relative_to(DATA) for file in DATA.rglob("*.*"))
    assert len(names) == NUM_IMAGES + 4
    for name in names:
        if name.suffix == ".png":
            drawn, shipped = (Image.open(folder / name).convert("RGB") for folder in (tmp_path, DATA))
            assert drawn.tobytes() == shipped.tobytes()
        else:
            assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
    assert sum(file.stat().st_size for file in DATA.rglob("*.*")) < 150_000


def test_every_row_is_read(tmp_path):
    roots = {"": DATA / "images"}
    assert len(load_rows("llava", DATA / "chats.jsonl", roots=roots).dataset) == NUM_IMAGES
    assert len(load_rows("vlfeedback", DATA / "answers.jsonl", roots=roots).dataset) == NUM_IMAGES
    assert len(load_mixture(DATA / "mixture.yaml", cache_dir=tmp_path).dataset) == 24
