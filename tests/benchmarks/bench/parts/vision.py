"""Vision tower and resampler, all tiles of an image in one call, against one tile at a time."""

import torch

from bench.counts import resampler_work, tower_work
from bench.rows import Candidate, Row, compare
from bench.session import Session
from bench.shapes import TILES, make_tiles


TOGETHER, APART = f"{TILES} tiles in one call", f"{TILES} tiles, one at a time"
MASKED = f"{TILES} chunks, letterbox masked"


@torch.inference_mode()
def measure_tower(session: Session) -> list[Row]:
    """Measures the vision tower, in tiles a second."""
    setting, config = session.setting, session.config
    tower = session.model.get_vision_features
    tiles = make_tiles(config, 1, setting)["pixel_values"]
    one = tower_work(config.vision_config, 1, setting.size)
    candidates = {
        APART: Candidate(lambda: [tower(tile) for tile in tiles.split(1)], TILES, one.times(TILES)),
        TOGETHER: Candidate(lambda: tower(tiles), TILES, tower_work(config.vision_config, TILES, setting.size)),
    }
    return compare("tower", "tiles", inferring(candidates), setting.device, setting.effort, {TOGETHER: APART})


@torch.inference_mode()
def measure_resampler(session: Session) -> list[Row]:
    """Measures the resampler, in tiles a second; also with the mask that hides letterbox patches."""
    setting, config = session.setting, session.config
    resampler, patches = session.model.model.resampler, config.patches_per_side**2
    shape = (TILES, patches, config.vision_config.hidden_size)
    features = torch.randn(shape, device=setting.device, dtype=setting.dtype)
    visible = torch.ones(shape[:2], device=setting.device, dtype=torch.bool)
    visible[1:, : patches // 8] = False
    one, all_work = (resampler_work(config, chunks, setting.size) for chunks in (1, TILES))
    candidates = {
        APART: Candidate(lambda: [resampler(part) for part in features.split(1)], TILES, one.times(TILES)),
        TOGETHER: Candidate(lambda: resampler(features), TILES, all_work),
        MASKED: Candidate(lambda: resampler(features, visible), TILES, all_work),
    }
    baselines = {TOGETHER: APART, MASKED: TOGETHER}
    return compare("resampler", "tiles", inferring(candidates), setting.device, setting.effort, baselines)


def inferring(candidates: dict[str, Candidate]) -> dict[str, Candidate]:
    """Returns candidates that run without autograd, also from another frame."""
    return {
        name: Candidate(torch.inference_mode()(one.function), one.amount, one.work, one.note)
        for name, one in candidates.items()
    }
