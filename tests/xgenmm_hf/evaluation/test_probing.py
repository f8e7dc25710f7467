"""POPE's probes: rows against a slow implementation of the paper's strategies, and annotations of all forms."""

import json
import random

import pytest
from PIL import Image

from xgenmm_hf.evaluation.probing import build_probes, read_objects, write_probes
from xgenmm_hf.evaluation.tasks import load_task
from xgenmm_hf.evaluation.tasks.probing import STRATEGIES


THINGS = ["person", "car", "dog", "apple", "umbrella", "cup", "chair", "bed", "oven", "tie"]


def annotations(count, seed=0):
    rng = random.Random(seed)
    return {f"{number}.jpg": rng.sample(THINGS, rng.randint(3, 6)) for number in range(count)}


def thing_of(row):
    return next(thing for thing in THINGS if f" {thing} in" in row["text"])


def slow_absent(objects, images, strategy, image, present, taken):
    """Counts over all images for each single question; the first of equally frequent things wins."""
    seen = []
    for other in images:
        for thing in objects[other]:
            if strategy == "popular" or (present in objects[other] and thing != present):
                seen.append(thing)
    ranked = sorted(dict.fromkeys(seen), key=lambda thing: -seen.count(thing))
    return next((thing for thing in ranked if thing not in objects[image] and thing not in taken), None)


@pytest.mark.parametrize("strategy", ["popular", "adversarial"])
def test_what_is_not_there_is_chosen_as_by_counting(strategy):
    objects = annotations(40)
    rows = build_probes(objects, [strategy], images=25, seed=3).rows[strategy]
    images = list(dict.fromkeys(row["image"] for row in rows))
    taken = {image: set() for image in images}
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        image, asked = yes["image"], thing_of(no)
        expected = slow_absent(objects, images, strategy, image, thing_of(yes), taken[image])
        assert expected is None or asked == expected
        taken[image].add(asked)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_ask_for_what_is_there_and_for_what_is_not(strategy):
    objects = annotations(40)
    rows = build_probes(objects, images=25).rows[strategy]
    assert len(rows) == 25 * 6
    assert [row["question_id"] for row in rows] == list(range(1, 151))
    for number, row in enumerate(rows):
        thing = thing_of(row)
        assert row["label"] == ("yes" if number % 2 == 0 else "no")
        assert (thing in objects[row["image"]]) == (row["label"] == "yes")
        assert f"Is there {'an' if thing[0] in 'aeiou' else 'a'} {thing} in the image?" == row["text"]
    assert len({(row["image"], row["text"]) for row in rows}) == len(rows)


def test_seed_decides_everything_and_strategies_share_what_is_there():
    objects = annotations(40)
    probes = build_probes(objects, images=10, seed=1)
    assert probes == build_probes(objects, images=10, seed=1)
    assert probes != build_probes(objects, images=10, seed=2)
    assert probes.rows["random"] == build_probes(objects, ["random"], images=10, seed=1).rows["random"]
    present = {name: [row for row in rows if row["label"] == "yes"] for name, rows in probes.rows.items()}
    assert present["random"] == present["popular"] == present["adversarial"]


def test_random_choice_is_even():
    objects = {f"{number}.jpg": THINGS[:3] for number in range(300)} | {"all.jpg": THINGS}
    rows = build_probes(objects, ["random"], images=301, per_image=1).rows["random"]
    asked = [row["text"] for row in rows if row["label"] == "no"]
    counts = [asked.count(text) for text in set(asked)]
    assert len(counts) == 7
    assert min(counts) > 20


def test_images_that_show_nearly_everything_are_problems():
    probes = build_probes({"1.jpg": THINGS[:8], "2.jpg": THINGS[:3], "3.jpg": THINGS[7:]}, images=3)
    assert [problem.where for problem in probes.problems] == ["1.jpg"]
    assert {row["image"] for row in probes.rows["random"]} == {"2.jpg", "3.jpg"}


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(ValueError, match="no strategy 'hard'"):
        build_probes(annotations(5), ["hard"])
    with pytest.raises(ValueError, match="5 images show 3 things or more, but 500"):
        build_probes(annotations(5))


def test_forms_of_annotations(tmp_path):
    objects = {"1.jpg": ["dog", "cat"], "2.jpg": []}
    plain, rows, coco = tmp_path / "plain.json", tmp_path / "rows.json", tmp_path / "instances.json"
    plain.write_text(json.dumps({"1.jpg": ["dog", "cat", "dog"], "2.jpg": []}))
    rows.write_text("".join(json.dumps({"image": name, "objects": things}) + "\n" for name, things in objects.items()))
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 6, "file_name": "2.jpg"}],
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
                "annotations": [{"image_id": 5, "category_id": category} for category in (2, 1, 2)],
            }
        )
    )
    assert read_objects(plain) == read_objects(rows) == read_objects(coco) == objects


@pytest.mark.parametrize(
    "document",
    [
        {"1.jpg": "dog"},
        {"1.jpg": [""]},
        [{"image": "1.jpg"}],
        [{"image": "1.jpg", "objects": []}] * 2,
        ["1.jpg"],
        7,
        {"annotations": [{"image_id": 1}], "images": [], "categories": []},
        {"annotations": 3},
    ],
)
def test_malformed_annotations_are_named(tmp_path, document):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_objects(path)


def test_written_probes_are_a_task(tmp_path):
    objects = annotations(6)
    for name in objects:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    files = write_probes(build_probes(objects, images=4), tmp_path / "out", "mine")
    assert [file.name for file in files] == [f"mine_pope_{strategy}.jsonl" for strategy in STRATEGIES]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    task = load_task("pope", files, images=tmp_path)
    assert (len(task.samples), task.problems) == (4 * 6 * 3, [])
    assert {sample.category for sample in task.samples} == set(STRATEGIES)
