"""Files -> data sets: containers, shards, caches, and what happens to bad records."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xgenmm_hf import load_rows
from xgenmm_hf.data.records import find_files, first_record, make_shards, name_columns, read_shard


def talk(answer="A bus.", **fields):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **fields}


def write(folder: Path, name: str, records) -> Path:
    file = folder / name
    if name.endswith(".json"):
        file.write_text(json.dumps(records))
    elif name.endswith(".jsonl"):
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), file, row_group_size=3)
    elif name.endswith(".tar"):
        with tarfile.open(file, "w") as archive:
            for index, record in enumerate(records):
                data = json.dumps(record).encode()
                info = tarfile.TarInfo(f"{index:04}.json")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file


def answers(dataset):
    return [row["messages"][1]["content"][0]["text"] for row in dataset]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "tar"])
def test_containers_in_memory_and_streamed(tmp_path, suffix):
    file = write(tmp_path, f"set.{suffix}", [talk(str(index)) for index in range(10)])
    loaded = load_rows("auto", file, cache_dir=tmp_path / "cache")
    assert isinstance(loaded.dataset, Dataset)
    assert answers(loaded.dataset) == [str(index) for index in range(10)]
    assert (loaded.report.records, loaded.report.rows, loaded.report.format) == (10, 10, "hub")
    assert len(set(loaded.dataset["id"])) == 10
    streamed = load_rows("hub", file, streaming=True, num_shards=4).dataset
    assert streamed.num_shards == (4 if suffix in ("jsonl", "parquet") else 1)
    assert list(streamed) == list(loaded.dataset)


def test_json_lines_in_a_json_file_and_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "set.json"
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(json.dumps(talk()).encode() for _ in range(3)))
    assert len(load_rows("auto", file, cache_dir=tmp_path / "cache").dataset) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.just(""), st.text(max_size=30)), min_size=1, max_size=12),
    st.integers(1, 20),
    st.sampled_from(["", "\n", "\r\n"]),
)
def test_shards_hold_every_line_once(tmp_path, texts, number, ending):
    file = tmp_path / "set.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) if text else "" for text in texts]
    file.write_text("\n".join(lines) + ending, encoding="utf-8", newline="")
    found = [item for shard in make_shards([file], number) for item in read_shard(shard)]
    assert [item.record["text"] for item in found] == [text for text in texts if text]
    assert [int(item.place) for item in found] == [line for line, text in enumerate(texts, 1) if text]


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("suffix", ["json", "jsonl", "tar"])
def test_ranks_share_a_stream(tmp_path, suffix, world):
    file = write(tmp_path, f"set.{suffix}", [talk(str(index)) for index in range(30)])
    stream = load_rows("auto", file, streaming=True, num_shards=8).dataset
    parts = [answers(split_dataset_by_node(stream, rank, world)) for rank in range(world)]
    assert sorted(int(answer) for part in parts for answer in part) == list(range(30))
    assert min(map(len, parts)) >= 1


def test_several_files_and_patterns(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path, name, [talk(name, id="7")])
    loaded = load_rows("auto", tmp_path / "*.jsonl", name="both", cache_dir=tmp_path / "cache")
    assert loaded.dataset["id"] == ["7@a.jsonl:1", "7@b.jsonl:1"]
    assert set(loaded.dataset["source"]) == {"both"}
    assert [path.name for path in find_files([tmp_path / "b.jsonl", tmp_path / "*.jsonl"])] == ["b.jsonl", "a.jsonl"]


def test_bad_records_are_listed_and_the_cache_remembers_them(tmp_path):
    file = write(tmp_path, "set.jsonl", [talk(), talk(id="x", images=["../1.jpg"]), {"messages": 3}])
    with file.open("a") as lines:
        lines.write('{"broken\n[]\n')
    for _ in range(2):
        loaded = load_rows("hub", file, max_rejected=0.8, cache_dir=tmp_path / "cache")
        assert (len(loaded.dataset), loaded.report.records) == (1, 5)
        assert loaded.report.rejected == {"path": 1, "fields": 2, "json": 1}
        problems = list(loaded.report.problems())
        assert [problem["id"] for problem in problems] == ["x@2", "3", "4", "5"]
        assert "leaves its root" in problems[0]["reason"]
    with pytest.raises(ValueError, match=r"^4 of 5 records of set are malformed \(80\.0%\), more than max_rejected"):
        load_rows("hub", file, cache_dir=tmp_path / "cache")


def test_a_changed_file_is_read_again(tmp_path):
    file = write(tmp_path, "set.jsonl", [talk("old")])
    assert answers(load_rows("auto", file, cache_dir=tmp_path / "cache").dataset) == ["old"]
    write(tmp_path, "set.jsonl", [talk("new"), talk("new")])
    assert answers(load_rows("auto", file, cache_dir=tmp_path / "cache").dataset) == ["new", "new"]


def test_a_cache_left_half_written_is_made_again(tmp_path):
    file = write(tmp_path, "set.jsonl", [talk()])
    load_rows("auto", file, cache_dir=tmp_path / "cache")
    (report,) = (tmp_path / "cache").glob("*/report.json")
    report.unlink()
    loaded = load_rows("auto", file, cache_dir=tmp_path / "cache")
    assert (len(loaded.dataset), loaded.report.records) == (1, 1)


def test_a_stream_stops_on_too_many_bad_records(tmp_path, caplog):
    file = write(tmp_path, "set.jsonl", [talk()] + [{"messages": 3}] * 7)
    with pytest.raises(ValueError, match="malformed, more than max_rejected"):
        list(load_rows("auto", file, streaming=True, max_rejected=0.05, num_shards=1).dataset)
    assert "set, 2 of set.jsonl: messages is a int" in caplog.text
    assert len(list(load_rows("auto", file, streaming=True, max_rejected=0.2).dataset)) == 1


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "holds no record"),
        ([{"messages": []}], "gives no row from 1 record.s..*messages is empty"),
        ([{"question": "x"}], r"not known from its fields \(question\)"),
        ([{"messages": [], "conversations": []}], "fit the formats llava and hub"),
    ],
)
def test_files_that_give_nothing(tmp_path, records, reason):
    with pytest.raises(ValueError, match=reason):
        load_rows("auto", write(tmp_path, "set.json", records), cache_dir=tmp_path / "cache")


def test_wrong_names_and_broken_files(tmp_path):
    file = write(tmp_path, "set.jsonl", [talk()])
    for arguments, options, reason in [
        (("nope", file), {}, "no data format 'nope'; there are llava"),
        (("hub", tmp_path / "nope.json"), {}, "no data file at"),
        (("hub", tmp_path / "*.nope"), {}, "no data file at"),
        (("hub", file), {"options": {"max_images": 3}}, "has no option 'max_images'; it has none"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_rows(*arguments, **options)
    for name, data in [
        ("a.json", b"[{"),
        ("b.json", b"3"),
        ("c.parquet", b"PAR1"),
        ("d.tar", b"text"),
        ("e.xml", b""),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            load_rows("hub", tmp_path / name, cache_dir=tmp_path / "cache")


def test_rows_of_another_kind_are_rejected(tmp_path):
    pair = {"prompt": "What?", "chosen": "A bus.", "rejected": "A dog."}
    loaded = load_rows(
        "hub", write(tmp_path, "set.jsonl", [talk(), pair]), max_rejected=0.5, cache_dir=tmp_path / "cache"
    )
    assert loaded.report.rejected == {"mixed kinds": 1}


@pytest.mark.parametrize(
    ("first", "names", "header"),
    [
        (["url", "caption"], ["url", "caption"], True),
        (["a/1.jpg", "A bus."], ["image", "caption"], False),
        (["A bus", "a/1.jpg"], ["caption", "image"], False),
        (["a", "b", "c"], ["0", "1", "2"], False),
        ([], [], False),
    ],
)
def test_columns_of_tables(first, names, header):
    assert name_columns(first) == (names, header)


def test_tables(tmp_path):
    (tmp_path / "a.csv").write_text('image,caption\n1.jpg,"A red, wet bus"\n2.jpg\n"open,x\n')
    loaded = load_rows("auto", tmp_path / "a.csv", max_rejected=0.7, cache_dir=tmp_path / "cache")
    assert [row["content"][1]["text"] for row in loaded.dataset] == ["A red, wet bus"]
    assert loaded.report.rejected == {"table": 2}
    lines = [f'{index}/1.jpg\tA "bus" {index}' for index in range(9)]
    (tmp_path / "b.tsv").write_text("\n".join(lines))
    stream = load_rows("auto", tmp_path / "b.tsv", streaming=True, num_shards=3).dataset
    assert [row["content"][1]["text"] for row in stream] == [f'A "bus" {index}' for index in range(9)]
    assert stream.num_shards == 3


def test_the_first_record_of_a_large_array_is_found_without_the_rest(tmp_path):
    file = tmp_path / "set.json"
    file.write_text(" \n[ " + json.dumps(talk("x" * 2_000_000)) + ", {broken")
    assert first_record(make_shards([file]))["messages"][1]["content"].startswith("xxx")
    with pytest.raises(ValueError, match=r"set.json is not JSON"):
        load_rows("auto", file, cache_dir=tmp_path / "cache")
    write(tmp_path, "empty.json", [])
    assert first_record(make_shards([tmp_path / "empty.json", write(tmp_path, "b.jsonl", [{"a": 1}])])) == {"a": 1}
