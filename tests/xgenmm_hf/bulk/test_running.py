"""A run's file: in order, resumable, the same from one process and from several."""

import json
import pickle
from pathlib import Path

import forked
import pytest
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.running import generate


BROKEN = "007.png"
KILLED = """
import os, signal, sys
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.running import generate
folder, out, model, rows = sys.argv[1:]
seen = 0
def stop(count):
    global seen
    seen += count
    if seen >= int(rows):
        with open(out + ".1-of-1.part", "a") as part:
            part.write('{"index": 99, "ro')  # a line that the kill cut off
        os.kill(os.getpid(), signal.SIGKILL)
generator = BulkGenerator(model, "What is shown?", max_new_tokens=6, dtype="float32", device="cpu")
generate(folder, out, generator, batch_size=4, on_rows=stop)
"""
LONG = """
import re, sys
from pathlib import Path
import numpy as np
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.running import generate

class Tiles:
    def prepare(self, images):
        return [np.ones((5, 3, 384, 384), np.float32) for row in images]  # what five tiles take
    def answer(self, inputs):
        return [str(tiles.shape) for tiles in inputs]

def memory(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

generator = BulkGenerator("none", "What is shown?")
generator._loaded = Tiles()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = memory("VmRSS")
generate(sys.argv[1], sys.argv[2], generator, batch_size=8, workers=2)
print(memory("VmHWM") - before)
"""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_per_image_in_order_and_the_damaged_one_named(naming, drawn, tmp_path):
    result = generate(drawn, tmp_path / "out.jsonl", naming, batch_size=4)
    found = lines(tmp_path / "out.jsonl")
    assert result == (tmp_path / "out.jsonl", 18, 1, 0, True)
    assert [line["index"] for line in found] == list(range(18))
    assert [line["row"] for line in found] == sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.png"))
    (error,) = [line for line in found if "error" in line]
    assert error["row"] == f"1/{BROKEN}" and BROKEN in error["error"] and "text" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "out.jsonl", "out.run.json"]
    report = json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8"))
    assert (report["prompt"], report["batch_size"]) == ("What is shown?", 4)
    assert report["provenance"]["checkpoint"] == {"model": "no model"}
    assert report["provenance"]["engine"] == "transformers" and "torch" in report["provenance"]["versions"]


def test_one_row_that_the_engine_refuses_costs_its_batch_nothing(naming, drawn, tmp_path):
    Image.new("RGB", (13, 40)).save(drawn / "0" / "000.png")
    generate(drawn, tmp_path / "out.jsonl", naming, batch_size=8)
    refused, *others = lines(tmp_path / "out.jsonl")
    assert "000.png: an image is 13 wide" in refused["error"]
    assert sum("text" in line for line in others) == 16


def test_a_row_without_images_is_an_error(naming, drawn):
    found = naming({"image": [[], str(drawn / "0" / "000.png")]})
    assert found["error"] == ["the row has no image", None] and found["text"][0] is None and found["text"][1]


def test_shards_give_the_file_of_one_process_with_the_same_batches(naming, drawn, tmp_path):
    generate(drawn, tmp_path / "one.jsonl", naming, batch_size=4)
    batches, naming._loaded.batches = naming._loaded.batches, []
    results = [generate(drawn, tmp_path / "n.jsonl", naming, batch_size=4, shard=(n, 3)) for n in (2, 0, 1)]
    assert [result.merged for result in results] == [False, False, True]
    assert (tmp_path / "n.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert sorted(naming._loaded.batches) == sorted(batches)


def test_a_run_resumes_at_its_last_whole_batch(naming, drawn, tmp_path):
    generate(drawn, tmp_path / "whole.jsonl", naming, batch_size=4)

    def stop(count, seen=[0]):  # noqa: B006
        seen[0] += count
        if seen[0] >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(drawn, tmp_path / "out.jsonl", naming, batch_size=4, on_rows=stop)
    part = tmp_path / "out.jsonl.1-of-1.part"
    with part.open("a") as file:
        file.write('{"index": 8, "row": "0/016.png", "text": "whole line"}\n{"index": 9, "te')
    told: list[int] = []
    result = generate(drawn, tmp_path / "out.jsonl", naming, batch_size=4, on_rows=told.append)
    assert result.resumed == 8 and told[0] == 8 and sum(told) == 18
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_part_of_another_run_is_left_alone(naming, drawn, tmp_path):
    generate(drawn, tmp_path / "out.jsonl", naming, batch_size=4, shard=(0, 2))
    before = (tmp_path / "out.jsonl.1-of-2.part").read_bytes()
    naming.prompt = "Something else?"
    with pytest.raises(ValueError, match="begun with another source, model, prompt or option"):
        generate(drawn, tmp_path / "out.jsonl", naming, batch_size=4, shard=(0, 2))
    assert (tmp_path / "out.jsonl.1-of-2.part").read_bytes() == before
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        generate(drawn, tmp_path / "out.jsonl", naming)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(600):
        Image.new("RGB", (16, 16), (number % 256, 0, 0)).save(folder / f"{number:04d}.bmp")
    done = forked.run(["-c", LONG, folder, tmp_path / "out.jsonl"])
    assert done.returncode == 0, done.stderr
    # Three batches wait, one is answered, one is being made, 71 MB each; all rows would be 5 300.
    assert float(done.stdout) < 5 * 71 + 30
    assert len(lines(tmp_path / "out.jsonl")) == 600


@pytest.mark.slow
def test_the_model_killed_resumed_and_in_shards_answers_as_it_does_alone(drawn, tmp_path):
    from xgenmm_hf.inference.asking import ask
    from xgenmm_hf.modeling.images_xgenmm import read_image

    killed = forked.run(["-c", KILLED, drawn, tmp_path / "a.jsonl", TINY_MODEL, "8"])
    assert killed.returncode == -9
    generator = BulkGenerator(TINY_MODEL, "What is shown?", max_new_tokens=6, dtype="float32", device="cpu")
    assert generate(drawn, tmp_path / "a.jsonl", generator, batch_size=4).resumed == 8
    for shard in (0, 1):
        generate(drawn, tmp_path / "b.jsonl", generator, batch_size=4, shard=(shard, 2))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    found = [line for line in lines(tmp_path / "a.jsonl") if "text" in line]
    assert len(found) == 17
    for line in found[::6]:
        image = read_image(str(drawn / line["row"]))
        assert ask(generator.loaded.parts, [image], "What is shown?", max_new_tokens=6).text == line["text"]


def test_a_generator_goes_into_another_process(naming):
    again = pickle.loads(pickle.dumps(naming))
    assert again._loaded is None and again.prompt == "What is shown?"
    with pytest.raises(ValueError, match="expected transformers or vllm"):
        BulkGenerator("m", "p", engine="onnx")
