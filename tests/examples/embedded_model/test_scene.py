import random
from collections import Counter

import pytest
from embedded_model.world.scene import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    LAYOUTS,
    SHAPES,
    SIZES,
    TRAIN,
    WORDS,
    make_scene,
    sample_scene,
    split_of,
)


def test_the_same_seed_gives_the_same_scene():
    assert [make_scene(seed) for seed in range(50)] == [make_scene(seed) for seed in range(50)]
    assert len({make_scene(seed) for seed in range(50)}) == 50


def test_scenes_hold_only_what_their_layout_has_room_for():
    for seed in range(300):
        scene = make_scene(seed)
        assert scene.background in BACKGROUNDS
        assert 1 <= len(scene.items) <= scene.rows * scene.columns
        places = [(item.row, item.column) for item in scene.items]
        assert len(set(places)) == len(places)
        assert places == sorted(places)
        for item in scene.items:
            assert item.shape in SHAPES
            assert item.color in COLORS
            assert item.size in SIZES
            assert item.row < scene.rows
            assert item.column < scene.columns
        if scene.word is not None:
            assert scene.word.text in WORDS
            taken = [place for place in places if place[0] == scene.word.row]
            assert all(scene.word.column is not None and column != scene.word.column for _, column in taken)


def test_every_layout_and_number_of_shapes_occurs():
    scenes = [make_scene(seed) for seed in range(600)]
    assert {scene.layout for scene in scenes} == set(LAYOUTS)
    assert {len(scene.items) for scene in scenes} == {1, 2, 3, 4, 5, 6}
    assert 0.3 < sum(scene.word is not None for scene in scenes) / len(scenes) < 0.5


def test_training_and_held_out_scenes_never_show_the_same():
    train = {make_scene(seed, TRAIN).content for seed in range(3000)}
    held_out = {make_scene(seed, HELD_OUT).content for seed in range(3000)}
    assert not train & held_out


def test_the_split_depends_on_what_is_shown_and_not_on_the_jitter():
    rng = random.Random(0)
    shares = Counter(split_of(sample_scene(rng)) for _ in range(4000))
    assert 0.09 < shares[HELD_OUT] / 4000 < 0.16
    assert all(split_of(make_scene(seed, HELD_OUT)) == HELD_OUT for seed in range(50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "Unknown split 'test'.*train, held-out"),
        ({"layout": "round"}, "Unknown layout 'round'.*square"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_known(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scene(0, **arguments)
