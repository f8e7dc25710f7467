"""Which files decide whether a checkpoint tiles its images."""

import pytest

from xgenmm_hf.conversion.original_config import ImageMode, build_config, decide_image_mode
from xgenmm_hf.modeling.tiling_xgenmm import default_grids


GRIDS = [[384, 768], [768, 384]]
OTHER = [[384, 768]]


def encoder(**fields) -> dict:
    return {"vision_encoder_config": fields}


@pytest.mark.parametrize(
    ("original", "preprocessor", "expected"),
    [
        # The base release: says any-resolution, has null grids.
        (encoder(image_aspect_ratio="anyres"), {"grids": None}, ImageMode("none")),
        (encoder(image_aspect_ratio="anyres"), {"grids": GRIDS}, ImageMode("anyres", GRIDS)),
        (encoder(image_aspect_ratio="anyres", anyres_grids=OTHER), {"grids": GRIDS}, ImageMode("anyres", GRIDS)),
        (encoder(image_aspect_ratio="anyres", anyres_grids=OTHER), {"grids": None}, ImageMode("none")),
        (encoder(image_aspect_ratio="anyres", anyres_grids=OTHER), None, ImageMode("anyres", OTHER)),
        (encoder(anyres_grids=OTHER), {"size": [384, 384]}, ImageMode("anyres", OTHER)),
        (encoder(image_aspect_ratio="none", anyres_grids=OTHER), None, ImageMode("none")),
        (encoder(image_aspect_ratio="pad"), {"grids": None}, ImageMode("pad")),
    ],
)
def test_files_decide(original: dict, preprocessor: dict | None, expected: ImageMode) -> None:
    assert decide_image_mode(original, preprocessor, None) == expected


@pytest.mark.parametrize("original", [{}, encoder(image_aspect_ratio="anyres"), {"vision_encoder_config": None}])
def test_nothing_decides(original: dict) -> None:
    with pytest.raises(ValueError, match="--image-mode anyres"):
        decide_image_mode(original, None, None)


def test_the_user_decides() -> None:
    original = encoder(image_aspect_ratio="anyres", anyres_grids=OTHER)
    assert decide_image_mode(original, {"grids": GRIDS}, "none") == ImageMode("none")
    assert decide_image_mode(original, {"grids": GRIDS}, "anyres") == ImageMode("anyres", GRIDS)
    assert decide_image_mode({}, {"grids": None}, "anyres") == ImageMode("anyres", None)


def test_released_grids() -> None:
    assert default_grids(384) == [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]


@pytest.mark.parametrize("grids", ["anyres", [384, 768], [[384]], [[384, 0]], [["a", "b"]]])
def test_malformed_grids(grids) -> None:
    mode = decide_image_mode({}, {"grids": grids}, None)
    with pytest.raises(ValueError, match="anyres_grids .*width, height"):
        build_config({}, None, mode, "float32", {})


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="must be one of anyres, none, pad"):
        build_config({}, None, decide_image_mode({}, None, "tiles"), "float32", {})
