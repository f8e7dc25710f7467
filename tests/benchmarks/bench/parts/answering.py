"""From an image and a question to the first token, and many questions about one image with and without a cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.counts import image_work, prompt_work
from bench.rows import Candidate, Row, compare
from bench.session import Session
from bench.shapes import TILES, build_processor, image_size, make_images
from xgenmm_hf.inference.asking import build_messages
from xgenmm_hf.inference.feature_cache import FeatureCache


QUESTIONS = ("What color is it?", "How many are there?", "What stands on the left?", "Is there a dog?")
CACHED, UNCACHED = "from the cache", "computed for each question"


def measure_first_token(session: Session) -> list[Row]:
    """Measures the seconds from a PIL image and a question to the first token of the answer."""
    setting, model = session.setting, session.model
    image = make_images(1, image_size(session.config))[0]
    text = render_question(session, QUESTIONS[0])
    length = session.processor(images=image, text=text, return_tensors="pt")["input_ids"].shape[1]

    def answer() -> Any:
        inputs = session.processor(images=image, text=text, return_tensors="pt").to(setting.device, setting.dtype)
        return model.generate(**inputs, max_new_tokens=1, do_sample=False)

    work = question_work(session, length)
    one = {f"{TILES} tiles, {length} tokens": Candidate(torch.inference_mode()(answer), 1, work)}
    return compare("first token", "answers", one, setting.device, setting.effort)


def measure_cache(session: Session) -> list[Row]:
    """Measures several questions about one image, in answers of one token a second.

    Twice: five tiles of so many tokens each, and thirteen tiles sampled together, where the image costs far more
    than the text. The cache starts empty in every run, so that its first question pays for the image.
    """
    rows = ask_about_one_image(session, session.processor, f"{TILES} tiles")
    with sampling_together(session.config):
        return rows + ask_about_one_image(session, build_processor(session.config), "13 tiles sampled together")


def ask_about_one_image(session: Session, processor: Any, name: str) -> list[Row]:
    """Measures questions about one image with and without a cache.

    Args:
        session: The run.
        processor: The processor that belongs to the model as it is.
        name: What the image is called.

    Returns:
        A row each.
    """
    setting, model = session.setting, session.model
    image = make_images(1, image_size(session.config))[0]
    texts = [render_question(session, QUESTIONS[index % len(QUESTIONS)]) for index in range(setting.questions)]

    def ask(inputs: Any) -> list[int]:
        return list(model.generate(**inputs, max_new_tokens=1, do_sample=False)[:, -1].tolist())

    @torch.inference_mode()
    def uncached() -> list[list[int]]:
        prepared = (processor(images=image, text=text, return_tensors="pt") for text in texts)
        return [ask(inputs.to(setting.device, setting.dtype)) for inputs in prepared]

    @torch.inference_mode()
    def cached() -> list[list[int]]:
        cache = FeatureCache(model, processor)
        return [ask(cache.prepare(text, [image])) for text in texts]

    note = f"{setting.questions} questions, one token each"
    plain, kept = (f"{name}, {how}" for how in (UNCACHED, CACHED))
    candidates = {
        plain: Candidate(uncached, setting.questions),
        kept: Candidate(cached, setting.questions, None, note),
    }
    return compare("cache", "answers", candidates, setting.device, setting.effort, {kept: plain})


@contextmanager
def sampling_together(config: Any) -> Iterator[None]:
    """Lets a model sample the thirteen tiles of an image together, for the time of a block."""
    before = (config.anyres_grids, config.anyres_patch_sampling)
    side = config.tile_size
    config.anyres_grids, config.anyres_patch_sampling = [[4 * side, 3 * side]], False
    try:
        yield
    finally:
        config.anyres_grids, config.anyres_patch_sampling = before


def question_work(session: Session, length: int) -> Any:
    """Counts one question on one image of five tiles, up to the first token."""
    size, config = session.setting.size, session.config
    images = image_work([image_size(config)], TILES, config.tile_size)
    return images + prompt_work(config, TILES, 1, length, size)


def render_question(session: Session, question: str) -> str:
    """Renders a chat that asks a question about one image."""
    image = make_images(1, (8, 8))
    return str(session.processor.apply_chat_template(build_messages(image, question), add_generation_prompt=True))
