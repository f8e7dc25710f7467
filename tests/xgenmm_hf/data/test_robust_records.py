"""What damaged, hostile and odd files do: one bad record is one rejected record, never the end of the load."""

import base64
import io
import json
import tarfile
import zipfile

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xgenmm_hf import load_rows
from xgenmm_hf.data.adapters import ADAPTERS
from xgenmm_hf.data.adapters.base import Context, image_refs
from xgenmm_hf.data.fields import RecordProblem
from xgenmm_hf.data.image_refs import PathRefused, Roots, UnreadableImage, image_ref, image_size, open_image
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.data.records import make_shards, read_shard
from xgenmm_hf.data.rows import InvalidRow, validate_row


GOOD = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A bus."}]}
DEEP = "[" * 200_000 + "]" * 200_000


def png(size=(6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, format="PNG")
    return file.getvalue()


def load(file, tmp_path, **options):
    return load_rows("hub", file, max_rejected=0.9, cache_dir=tmp_path / "cache", **options)


BAD = {
    "half of a surrogate pair": json.dumps({**GOOD, "id": "x"}).encode().replace(b'"x"', b'"\\ud83d"'),
    "no UTF-8": json.dumps(GOOD).encode().replace(b"A bus.", b"A \xff\xfe bus."),
    "nested": json.dumps({**GOOD, "extra": "@"}).encode().replace(b'"@"', DEEP.encode()),
    "a long path": json.dumps({**GOOD, "images": ["a" * 5000 + ".png"]}).encode(),
    "a long path of short names": json.dumps({**GOOD, "images": ["/".join(["a" * 100] * 50)]}).encode(),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_bad_record_is_one_rejected_record(tmp_path, name, form):
    records = [json.dumps(GOOD).encode(), BAD[name], json.dumps(GOOD).encode()]
    file = tmp_path / ("set.jsonl" if form == "lines" else "set.json")
    file.write_bytes(b"\n".join(records) if form == "lines" else b"[" + b",\n".join(records) + b"]")
    loaded = load(file, tmp_path)
    assert (loaded.report.records, loaded.report.rows, sum(loaded.report.rejected.values())) == (3, 2, 1)
    (problem,) = loaded.report.problems()
    assert (problem["file"], problem["id"]) == (file.name, "2" if form == "lines" else "1")


def test_a_row_of_parquet_that_is_not_unicode(tmp_path):
    offsets = pa.array(["ab", "cd", "ef"]).buffers()[:2]
    values = pa.Array.from_buffers(pa.string(), 3, [*offsets, pa.py_buffer(b"ab\xff\xfeef")])
    pq.write_table(pa.table({"question": values}), tmp_path / "set.parquet")
    found = [item.record for item in read_shard(*make_shards([tmp_path / "set.parquet"]))]
    assert [found[0], found[2]] == [{"question": "ab"}, {"question": "ef"}]
    assert found[1].kind == "text"


def test_a_member_named_like_a_key(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("1.__key__", "1.jpg", "1.txt", "__key__", "__key__.txt", "\udcff.jpg", "\udcff.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    (shard,) = make_shards([tmp_path / "set.tar"])
    places = [(found.place, getattr(found.record, "kind", "read")) for found in read_shard(shard)]
    assert places == [("1", "read"), ("__key__", "read"), ("?", "text")]


def test_links_are_not_followed_out_of_a_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "1.png").write_bytes(png())
    (root / "in.png").symlink_to(root / "1.png")
    (root / "out.png").symlink_to(outside / "1.png")
    (root / "folder").symlink_to(outside)
    roots = Roots(default=root)
    assert roots.resolve("in.png") == str(root / "in.png")
    for path in ("out.png", "folder/1.png"):
        with pytest.raises(PathRefused, match="a link that leads out of its root"):
            roots.resolve(path)
    # A root may be a link itself, and a snapshot of the Hub's cache is made of links to its blobs.
    (tmp_path / "alias").symlink_to(root)
    assert image_size(image_ref(Roots(default=tmp_path / "alias").resolve("1.png"))) == (4, 6)
    snapshot = tmp_path / "datasets--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blob = tmp_path / "datasets--org--name" / "blobs" / "123"
    blob.parent.mkdir()
    blob.write_bytes(png())
    (snapshot / "1.png").symlink_to(blob)
    assert image_size(image_ref(Roots(default=snapshot).resolve("1.png"))) == (4, 6)


def test_sources_with_one_file_name_keep_apart(tmp_path):
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    for folder in ("html", "pdf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00000.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    (tmp_path / "m.yaml").write_text("data: {html/00000.jsonl: all, pdf/00000.jsonl: all}\n")
    mixture = load_mixture(tmp_path / "m.yaml", cache_dir=tmp_path / "cache")
    assert [report.source for report in mixture.sources] == ["00000", "pdf/00000"]
    assert len({(row["source"], row["id"]) for row in mixture.dataset}) == 2
    (tmp_path / "m.yaml").write_text("datasets: [{path: a, name: x, weight: 1}, {path: b, name: x, weight: 1}]\n")
    with pytest.raises(ValueError, match="two sources have the name x"):
        load_mixture(tmp_path / "m.yaml")


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
from xgenmm_hf import load_rows
try:
    load_rows("hub", sys.argv[1], cache_dir=sys.argv[2])
except ValueError as error:
    print(error)
"""


def test_a_full_disk_names_the_folder(tmp_path):
    record = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "x" * 10_000}]}
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(record) + "\n" for _ in range(300)))
    said = forked.run(["-c", FULL_DISK, tmp_path / "set.jsonl", tmp_path / "cache"])
    assert f"There is no space for the rows of set in {tmp_path / 'cache'}" in said.stdout, said.stderr[-2000:]
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_the_ways_in_which_an_image_is_given(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("sub/1.png", png())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "1.png", "sub/1.png")
    written = base64.b64encode(png()).decode()
    pixels = np.zeros((5, 6, 3), dtype=np.uint8)
    values = [png(), {"bytes": png(), "path": None}, "1.png", written, f"data:image/png;base64,{written}", pixels]
    values += [pixels.tolist(), Image.new("RGB", (6, 4))]
    context = Context("set", Roots(default=tmp_path))
    for value in values:
        (ref,) = image_refs(value, context)
        assert open_image(ref).size in ((6, 4), (6, 5))
    assert open_image(tmp_path / "1.png").size == (6, 4)
    for archive in ("a.zip", "a.tar"):
        roots = Roots({"": tmp_path / archive})
        assert image_size(image_ref(roots.resolve("sub/1.png"))) == (4, 6)
        with pytest.raises(UnreadableImage, match=rf"no image sub/2.png in .*{archive}"):
            image_size(image_ref(roots.resolve("sub/2.png")))
    assert image_refs("", context) == image_refs(None, context) == [] and context.notes == {"empty image": 1}
    for value in ([[300]], {"bytes": None, "path": None}, 3.5, f"data:image/png;base64,{written[:-3]}"):
        with pytest.raises(RecordProblem):
            image_refs(value, context)


def test_wrong_answers_of_a_result_file_are_preference_rows(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    sample = {"id": "q", "question": "What color?", "images": [str(tmp_path / "1.png")], "references": ["Red", "red"]}
    answered = (("Blue", 0.0), ("Red", 1.0), ("?", None))
    samples = [{**sample, "answer": answer, "score": score} for answer, score in answered]
    (tmp_path / "results.json").write_text(json.dumps({"format": "xgenmm-eval-1", "samples": samples, "problems": []}))
    mixture = load_mixture(tmp_path / "results.json", cache_dir=tmp_path / "cache")
    (row,) = mixture.dataset
    assert (mixture.kind, row["rejected"][0]["content"][0]["text"]) == ("preference", "Blue")
    assert row["chosen"][0]["content"][0]["text"] == "Red"
    assert mixture.sources[0].skipped == {"right answer": 1, "no score": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "from",
                    "value",
                    "content",
                    "type",
                    "text",
                    "user",
                    "assistant",
                    "bbox",
                    "bytes",
                    "path",
                    "response",
                    "annotations",
                    "granularity",
                    "source",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = (
    "id image images conversations conversation messages prompt chosen rejected texts captions caption pages objects "
    "completions instr-resp safe question references answer score url completion cogvlm_caption"
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ADAPTERS)), st.dictionaries(st.sampled_from(FIELDS.split()), values, max_size=8))
def test_no_record_raises_anything_but_a_problem(format, record):
    try:
        for row in ADAPTERS[format].convert(record, "1", Context("set", Roots(default="/p"))):
            validate_row(row)
        ADAPTERS[format].matches(record)
    except (RecordProblem, InvalidRow):
        pass
