"""Rows, limits, reports and curves, on the embedded model's shape."""

import json

import pytest
import torch
from bench import curves, document, limits, parts, report, runner
from bench.counts import Work
from bench.limits import Limits
from bench.parts import quantisation, training
from bench.parts.text import measure_compiled
from bench.rows import Candidate, compare
from bench.session import Session
from bench.shapes import PRESETS, Setting, make_images, preset_config
from bench.timing import Effort, measure, peak_memory


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def session():
    effort = Effort(runs=1, warmups=0, budget=1.0)
    return Session(Setting("tiny", CPU, torch.float32, effort, decode_batches=(1, 2), images=2, questions=2))


@pytest.fixture
def quick_limits(monkeypatch):
    monkeypatch.setattr(limits, "SIDES", {"cpu": (64,)})
    monkeypatch.setattr(limits, "COPIED", {"cpu": 2**16})


def test_limits_choose_what_takes_longer():
    machine = Limits(flops=100.0, bandwidth=10.0)
    assert machine.seconds(Work(200, 10)) == 2 and machine.bound(Work(200, 10)) == "compute"
    assert machine.seconds(Work(100, 50)) == 5 and machine.bound(Work(100, 50)) == "memory"
    assert machine.faster(Limits(50.0, 20.0)) == Limits(100.0, 20.0)


def test_measured_limits(quick_limits):
    found = limits.measure_limits(CPU, torch.float32, Effort(runs=1, warmups=0))
    assert found.flops > 0 and found.bandwidth > 0


def test_candidates_take_turns():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "AB"}
    timings = measure(functions, CPU, Effort(runs=3, warmups=1))
    assert order == ["A", "B", "A", "B", "B", "A", "A", "B"]
    assert timings["A"].runs == 3 and timings["A"].low <= timings["A"].seconds <= timings["A"].high


def test_no_round_starts_after_the_budget():
    assert measure({"A": lambda: None}, CPU, Effort(runs=9, budget=0.0))["A"].runs == 1


@pytest.mark.parametrize(("budget", "calls"), [(0.0, 1), (60.0, 4)])
def test_what_takes_longer_than_the_budget_runs_once(budget, calls):
    ran = []
    compare("part", "runs", {"A": Candidate(lambda: ran.append(1), 1)}, CPU, Effort(runs=3, warmups=1, budget=budget))
    assert len(ran) == calls


def test_peak_memory_sees_what_is_freed_again():
    peak = peak_memory(lambda: torch.ones(2**25).sum(), CPU)
    assert peak is None or peak > 0.8 * 2**27


def test_ratios_compare_rates():
    candidates = {"one": Candidate(lambda: None, 1), "two": Candidate(lambda: None, 4, Work(2.0, 1.0), "a note")}
    one, two = compare("part", "things", candidates, CPU, Effort(runs=1), {"two": "one"})
    assert two.ratio == pytest.approx(two.rate / one.rate) and one.ratio is None
    record = two.as_dict(Limits(1.0, 1.0))
    assert record["bound"] == "compute" and record["share"] == pytest.approx(2.0 / two.timing.seconds)
    assert one.as_dict(Limits(1.0, 1.0))["share"] is None


def test_plain_pipeline_gives_the_same_pixels(session):
    cutter = session.processor.image_processor
    images = make_images(2, (100, 170)) + make_images(1, (200, 60))
    assert torch.equal(images.process_one_by_one(cutter, images), cutter(images)["pixel_values"])


@pytest.mark.parametrize("part", ["images", "tower", "resampler", "prefill", "decode", "first-token", "cache"])
def test_parts(session, part):
    rows = parts.find_part(part)(session)
    assert all(row.timing.seconds > 0 and row.rate > 0 for row in rows)
    names = [row.case for row in rows]
    assert len(set(names)) == len(names) and all(row.baseline in (None, *names) for row in rows)


@pytest.mark.parametrize("part", ["sft", "dpo"])
def test_training_steps(session, part):
    pytest.importorskip("trl")
    kept, recomputed = parts.find_part(part)(session)
    assert kept.work == recomputed.work and kept.work.flops > 0 and kept.amount > 100
    assert training.ANSWER


def test_loading(session):
    streaming, reading, loading = parts.find_part("load")(session)
    assert loading.baseline == reading.case and loading.amount == reading.amount > 0
    if loading.note:
        assert "x the file" in loading.note


def test_compiled_steps_start_from_the_same_cache(session, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    rows = measure_compiled(session, 9)
    assert [row.case for row in rows][:2] == ["batch 1, static cache", "batch 1, static cache, compiled"]
    assert compiled == [{"mode": "default", "fullgraph": True}]


def test_run(session, quick_limits, tmp_path, monkeypatch):
    def missing(session):
        raise ImportError("no", name="trl")

    def full(session):
        raise torch.OutOfMemoryError("no room")

    find = parts.find_part
    monkeypatch.setattr(runner, "find_part", lambda name: {"sft": missing, "images": full}.get(name) or find(name))
    seen = []
    record = runner.run_bench(session.setting, ["sft", "images", "tower"], seen.append)
    assert seen == ["limits", "images", "tower", "sft"]
    assert {row["part"] for row in record["rows"]} == {"tower"}
    assert "needs trl" in record["skipped"]["sft"] and record["skipped"]["images"] == "out of memory"
    file = tmp_path / "new" / "bench.json"
    report.write_json(record, file)
    assert json.loads(file.read_text())["rows"][0]["share"] > 0
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]
    assert report.as_table(record).row_count == 4
    assert report.as_markdown(record).count("\n") == 6


def test_unknown_names(session):
    with pytest.raises(ValueError, match="There is no part 'towr'"):
        runner.run_bench(session.setting, ["towr"])
    with pytest.raises(ValueError, match="There is no part 'towr'"):
        parts.find_part("towr")
    with pytest.raises(ValueError, match="preset is '5b'"):
        preset_config("5b")


def test_presets_share_widths():
    pytest.importorskip("trl")
    small, full = (preset_config(name) for name in ("4b-slice", "4b"))
    for part in ("vision_config", "resampler_config", "text_config"):
        assert getattr(small, part).hidden_size == getattr(full, part).hidden_size
    assert preset_config("14b").text_config.hidden_size == 5120
    assert set(PRESETS) == {"tiny", "4b-slice", "4b", "14b"}


def test_curves(session, quick_limits, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in ("TILE_COUNTS", "IMAGE_COUNTS", "BATCHES"):
        monkeypatch.setattr(curves, name, (1, 3))
    monkeypatch.setattr(curves, "LENGTHS", (16, 32, 10**6))
    record = curves.draw_curves(session.setting, tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "batch.png",
        "length.png",
        "images.png",
        "tiles.png",
    ]
    assert len(record["plots"]) == 4 and len(record["rows"]) == 8
    for first, second in zip(record["rows"][::2], record["rows"][1::2], strict=True):
        assert first["predicted"] == pytest.approx(first["seconds"]) and second["predicted"] > first["predicted"]


def test_document(session, quick_limits, tmp_path, monkeypatch):
    row = {"curve": "tiles", "value": 3, "seconds": 0.5, "predicted": 0.25, "share": 0.5}
    found = runner.run_bench(session.setting, ["tower"])
    plots = [str(tmp_path / "tiny-cpu" / "tiles.png")]
    monkeypatch.setattr(document, "run_bench", lambda *args: found)
    monkeypatch.setattr(document, "draw_curves", lambda *args: {"rows": [row], "plots": plots})
    record = document.write_document(session.setting, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-cpu.json", "tiny-cpu.md"]
    page = (tmp_path / "tiny-cpu.md").read_text()
    assert "![tiles](tiny-cpu/tiles.png)" in page and "| tiles | 3 | 0.5 | 0.25 | 50% |" in page
    assert json.loads((tmp_path / "tiny-cpu.json").read_text()) == json.loads(json.dumps(record))


def test_a_document_keeps_its_figures_if_the_curves_fail(session, quick_limits, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "run_bench", lambda *args: {"rows": [1]})
    monkeypatch.setattr(document, "draw_curves", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        document.write_document(session.setting, tmp_path)
    assert json.loads((tmp_path / "tiny-cpu.json").read_text()) == {"rows": [1]}


@pytest.mark.parametrize("kind", list(quantisation.KINDS))
def test_quantised_language_model(kind):
    pytest.importorskip(quantisation.KINDS[kind])
    plain, model = (
        quantisation.load_quantised(quantisation.TINY_MODEL, name, CPU, torch.float32)
        for name in (quantisation.PLAIN, kind)
    )
    assert quantisation.decoder_bytes(model) < 0.3 * quantisation.decoder_bytes(plain)
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    tiles = torch.rand(1, 3, plain.config.tile_size, plain.config.tile_size)
    with torch.no_grad():
        features, expected = (one.get_vision_features(tiles).last_hidden_state for one in (model, plain))
    torch.testing.assert_close(features, expected)


def test_unknown_kinds_of_quantisation():
    with pytest.raises(ValueError, match="kind is 'int3'"):
        quantisation.quantization_config("int3", torch.float32)
