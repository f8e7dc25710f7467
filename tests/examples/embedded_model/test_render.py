import numpy as np
import pytest
from embedded_model.world.render import background_tint, image_size, letter_edges, place_contents, render
from embedded_model.world.scene import WORDS, Item, Scene, Word, make_scene


def scene_of(*items, word=None, layout="square", background="white"):
    return Scene(layout, background, items, word, aspect=1.0, jitter_seed=5)


def test_drawing_is_deterministic():
    first, second = render(make_scene(3), 160), render(make_scene(3), 160)
    assert first.tobytes() == second.tobytes()
    assert first.mode == "RGB"


@pytest.mark.parametrize("side", [64, 100, 512])
def test_the_longest_side_is_as_asked(side):
    for seed in range(20):
        scene = make_scene(seed)
        image = render(scene, side)
        assert max(image.size) == side
        assert (image.height, image.width) == image_size(scene, side)


def test_everything_lies_inside_the_image():
    for seed in range(300):
        for drawn in place_contents(make_scene(seed)):
            box = drawn.box
            assert 0 <= box.left < box.right <= 1
            assert 0 <= box.top < box.bottom <= 1


def test_a_shape_is_drawn_where_its_box_says_and_nowhere_else():
    scene = scene_of(Item("circle", "red", "large", 0, 2))
    pixels = np.asarray(render(scene, 300), dtype=int)
    ink = np.abs(pixels - np.array(background_tint(scene))).max(-1) > 60
    rows, columns = np.nonzero(ink)
    box = place_contents(scene)[0].box
    drawn = [columns.min() / 300, rows.min() / 300, columns.max() / 300, rows.max() / 300]
    assert np.allclose(drawn, [box.left, box.top, box.right, box.bottom], atol=0.01)


def test_a_word_fills_its_box():
    for text in WORDS:
        scene = scene_of(Item("circle", "red", "small", 2, 0), word=Word(text, 0))
        pixels = np.asarray(render(scene, 300), dtype=int)[:100]
        rows, columns = np.nonzero(np.abs(pixels - np.array(background_tint(scene))).max(-1) > 60)
        box = place_contents(scene)[-1].box
        drawn = [columns.min() / 300, rows.min() / 300, columns.max() / 300, rows.max() / 300]
        assert np.allclose(drawn, [box.left, box.top, box.right, box.bottom], atol=0.025)


def test_a_small_image_shows_the_same_as_a_large_one():
    large = render(make_scene(7), 512).resize(render(make_scene(7), 128).size)
    difference = np.abs(np.asarray(large, dtype=int) - np.asarray(render(make_scene(7), 128), dtype=int))
    assert difference.mean() < 3


def test_large_shapes_are_larger_than_small_ones():
    scene = scene_of(Item("circle", "red", "small", 0, 0), Item("circle", "red", "large", 2, 2))
    small, large = place_contents(scene)
    assert 1.5 * (small.box.right - small.box.left) < large.box.right - large.box.left


def test_letters_share_the_words_width():
    edges = letter_edges("MOON")
    assert edges == sorted(edges)
    assert edges[-1] == 1.0
    assert edges[0] > 0.25


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        render(make_scene(0), 0)
