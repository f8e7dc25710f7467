"""The language model: reading a prompt, and decode steps for several rows on a filled cache."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, StaticCache

from bench.counts import decoder_work, head_dim
from bench.parts.vision import inferring
from bench.rows import Candidate, Row, compare
from bench.session import Session
from bench.shapes import TILES, make_prompts


# Steps of a decode run: enough for a clock, few enough for two cores.
STEPS = 4
LAST, ALL = "logits of the last position", "logits of all positions"


def measure_prefill(session: Session) -> list[Row]:
    """Measures reading a prompt with one image of five tiles, its image tokens given, in tokens a second."""
    setting, config, model = session.setting, session.config, session.model
    tokens = TILES * config.resampler_config.num_latents
    prompt = make_prompts(config, 1, tokens, setting.text_tokens, setting.device)
    embeds = torch.randn(1, prompt.shape[1], config.text_config.hidden_size, device=setting.device).mul_(0.02)
    embeds, length = embeds.to(setting.dtype), prompt.shape[1]

    def read(kept: int) -> Any:
        return model(inputs_embeds=embeds, use_cache=True, logits_to_keep=kept).logits

    works = [decoder_work(config.text_config, 1, length, setting.size, kept=kept) for kept in (1, None)]
    candidates = {
        ALL: Candidate(lambda: read(0), length, works[1]),
        LAST: Candidate(lambda: read(1), length, works[0], f"{length} tokens"),
    }
    return compare("prefill", "tokens", inferring(candidates), setting.device, setting.effort, {LAST: ALL})


def measure_decode(session: Session) -> list[Row]:
    """Measures decode steps behind a cached prompt, in tokens a second; the baseline is a batch of one."""
    setting, config = session.setting, session.config
    past = TILES * config.resampler_config.num_latents + setting.text_tokens
    rows: list[Row] = []
    candidates, baselines = {}, {}
    for batch in setting.decode_batches:
        name = f"batch {batch}"
        candidates[name] = decode_candidate(session, batch, past, fill_dynamic, session.model)
        baselines[name] = f"batch {setting.decode_batches[0]}"
    baselines.pop(f"batch {setting.decode_batches[0]}")
    rows += compare("decode", "tokens", inferring(candidates), setting.device, setting.effort, baselines)
    if setting.compiled:
        rows += measure_compiled(session, past)
    return rows


def measure_compiled(session: Session, past: int) -> list[Row]:
    """Measures decode steps with a static cache, plain and compiled into one graph."""
    setting, model = session.setting, session.model
    # On a GPU reduce-overhead records the step as a CUDA graph.
    mode = "reduce-overhead" if setting.device.type == "cuda" else "default"
    step = torch.compile(model.forward, mode=mode, fullgraph=True)
    rows = []
    for batch in setting.decode_batches:
        plain, compiled = f"batch {batch}, static cache", f"batch {batch}, static cache, compiled"
        candidates = inferring(
            {
                plain: decode_candidate(session, batch, past, fill_static, model),
                compiled: decode_candidate(session, batch, past, fill_static, step),
            }
        )
        candidates[compiled].function()  # compiles, which is no part of any figure
        rows += compare("decode", "tokens", candidates, setting.device, setting.effort, {compiled: plain})
    return rows


def decode_candidate(
    session: Session, batch: int, past: int, fill: Callable[..., Any], forward: Callable[..., Any]
) -> Candidate:
    """Makes a run of decode steps.

    Args:
        session: The run.
        batch: Rows.
        past: Cached tokens a row.
        fill: Makes the cache.
        forward: The model, or its compiled forward.

    Returns:
        A candidate whose runs all start from the same number of cached tokens.
    """
    setting, text = session.setting, session.config.text_config
    cache, rewind = fill(session, batch, past)
    token = torch.full((batch, 1), 7, device=setting.device)

    def run() -> None:
        ids = token
        for step in range(STEPS):
            position = torch.tensor([past + step], device=setting.device)
            logits = forward(
                input_ids=ids,
                past_key_values=cache,
                use_cache=True,
                position_ids=position.expand(batch, 1),
                cache_position=position,
            ).logits
            ids = logits[:, -1:].argmax(-1)
        rewind()

    work = decoder_work(text, batch, 1, setting.size, past=past + STEPS // 2)
    return Candidate(run, batch * STEPS, work.times(STEPS), f"{past} cached tokens a row")


def random_states(session: Session, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes random keys and values of one layer, (batch, heads, length, head_dim) each."""
    setting, text = session.setting, session.config.text_config
    shape = (batch, text.num_key_value_heads, length, head_dim(text))
    key, value = (torch.randn(shape, device=setting.device, dtype=setting.dtype) for _ in range(2))
    return key, value


def fill_dynamic(session: Session, batch: int, past: int) -> tuple[Any, Callable[[], None]]:
    """Makes a growing cache of random states, and what cuts it back after a run."""
    cache = DynamicCache()
    for layer in range(session.config.text_config.num_hidden_layers):
        cache.update(*random_states(session, batch, past), layer)
    return cache, lambda: cache.crop(-STEPS)


def fill_static(session: Session, batch: int, past: int) -> tuple[Any, Callable[[], None]]:
    """Makes a cache of fixed size with random states, and what rewinds it after a run."""
    text = session.config.text_config
    cache = StaticCache(config=text, max_cache_len=past + STEPS)
    position = torch.arange(past, device=session.setting.device)
    for layer in range(text.num_hidden_layers):
        cache.update(*random_states(session, batch, past), layer, {"cache_position": position})

    # what a layer has taken in: a tensor, for sliding windows a number (and on 5.x both); 4.57 passes the position
    names = ("cumulative_length", "cumulative_length_int")
    counters = [(layer, name) for layer in cache.layers for name in names if hasattr(layer, name)]

    def rewind() -> None:
        for layer, name in counters:
            counter = getattr(layer, name)
            if isinstance(counter, torch.Tensor):
                counter.fill_(past)
            else:
                setattr(layer, name, past)

    return cache, rewind
