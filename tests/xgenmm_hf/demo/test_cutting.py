"""How an image is shown to be cut is how the processor cuts it."""

import numpy as np
import pytest
from PIL import Image

from xgenmm_hf.demo.cutting import draw_grid, view_cut


@pytest.mark.parametrize("size", [(64, 64), (300, 90), (90, 300), (200, 190)])
def test_tiles_and_tokens_are_the_processors(loaded, size):
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    view = view_cut(loaded.model.config, loaded.processor, image)
    inputs = loaded.processor(images=[image], text="<image>", return_tensors="np")
    assert view.num_tokens == int((inputs["input_ids"] == loaded.model.config.image_token_id).sum())
    assert len(view.tiles) == int(inputs["image_num_tiles"][0]) == 1 + view.columns * view.rows
    assert f"{view.num_tokens} tokens" in view.summary and f"{size[0]} x {size[1]} pixels" in view.summary
    name, overview = view.tiles[0]
    side = loaded.model.config.tile_size
    squashed = image.resize((side, side), Image.Resampling.BICUBIC)
    assert name == "overview"
    assert np.array_equal(np.asarray(overview), np.asarray(squashed))


def test_one_tile_models_show_the_image_whole(loaded):
    class OneTile:
        image_processor = type(loaded.processor.image_processor)(
            image_aspect_ratio="none", size={"height": 64, "width": 64}
        )

    image = Image.new("RGB", (300, 90), "red")
    view = view_cut(loaded.model.config, OneTile, image)
    assert (view.columns, view.rows, len(view.tiles)) == (0, 0, 1)
    assert view.drawn is image


def test_the_grid_keeps_the_images_shape():
    drawn = draw_grid(Image.new("RGB", (400, 100), "white"), 2, 1, 384)
    assert drawn.size == (768, 384)
    pixels = np.asarray(drawn)
    assert pixels[0].max() == 0 or tuple(pixels[0, 384]) == (255, 196, 0)
    assert pixels[192, 10].min() == 255
    assert tuple(pixels[192, 384]) == (255, 196, 0)
