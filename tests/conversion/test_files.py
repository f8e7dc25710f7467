"""Files and folders appear whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xgenmm_hf.conversion.files import (
    UNFINISHED,
    check_output_folder,
    output_folder,
    read_json,
    replacing,
    write_json,
)


FILL = """
import os, signal, sys
from xgenmm_hf.conversion.files import output_folder
with output_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("written")
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    print("filling", flush=True)
    sys.stdin.read()
"""


def everything(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "facts.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), replacing(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"a": 1}
    assert everything(target.parent) == {"facts.json"}


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real.json") == {"a": 1}


def test_a_draft_has_the_ending_of_its_file(tmp_path: Path) -> None:
    with replacing(tmp_path / f"{'n' * 240}.png") as draft:
        assert draft.suffix == ".png"
        draft.write_bytes(b"image")
    assert len(everything(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["absent", "deep", "empty", "link", "mount"])
def test_a_folder_appears_whole(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "deep" if kind == "deep" else tmp_path / "out"
    if kind in ("empty", "mount"):
        out.mkdir()
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    if kind == "mount":  # it can neither be removed nor replaced
        monkeypatch.setattr(Path, "rmdir", lambda self: pytest.fail(f"{self} was removed"))
    with output_folder(out) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "parts").mkdir()
        (folder / "parts" / "one").write_text("1")
        assert not (out / "config.json").exists()
    assert everything(out) == {"config.json", "parts", "one"}
    assert out.is_symlink() == (kind == "link")
    assert not [name for name in everything(tmp_path) if "unfinished" in name]


@pytest.mark.parametrize("made_before", [False, True])
def test_what_a_killed_run_left_is_removed_and_named(tmp_path: Path, made_before: bool) -> None:
    out = tmp_path / "out"
    if made_before:
        out.mkdir()
    killed = subprocess.run([sys.executable, "-c", FILL, out, "kill"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "half" in everything(tmp_path)
    notes: list[str] = []
    with output_folder(out, notes=notes) as folder:
        (folder / "whole").write_text("")
    assert len(notes) == 1 and notes[0].count(UNFINISHED) == 1
    assert everything(out) == {"whole"} == everything(tmp_path) - {"out"}


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", FILL, tmp_path / "out"], stdin=-1, stdout=-1)
    assert other.stdout.readline() == b"filling\n"
    notes: list[str] = []
    with output_folder(tmp_path / "out", notes=notes) as folder:
        (folder / "ours").write_text("")
    assert notes == []
    other.communicate()
    assert other.returncode == 1  # it finds the folder filled
    assert everything(tmp_path / "out") == {"ours"}


def test_what_stands_in_the_way_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for out, said in [
        ("file", "is a file"),
        ("file/out", "is a file"),
        (".", "not empty"),
        ("nowhere", "leads nowhere"),
    ]:
        with pytest.raises(FileExistsError, match=said):
            check_output_folder(tmp_path / out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for out in ("locked", "locked/deep/out"):
        with pytest.raises(PermissionError, match="may not be written"):
            check_output_folder(tmp_path / out)


def test_free_space_is_asked_where_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    usage, asked = shutil.disk_usage(tmp_path), []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage._replace(free=1000))
    with pytest.raises(OSError, match="GB free; the result takes"), output_folder(tmp_path / "link", 2000):
        pass
    assert asked == [tmp_path / "disk"]
    assert everything(tmp_path / "disk") == set()
