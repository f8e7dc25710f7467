"""Cutting rows, and where the answers of a rendered conversation stand."""

import numpy as np
import pytest
from conversation_rows import IGNORE, conversations, small_processor
from hypothesis import HealthCheck, given, settings

from xgenmm_hf.data.encoding import EncodedRow, count_tiles_and_tokens, render_chat, row_name


@pytest.mark.parametrize(
    ("max_length", "ids", "lengths"),
    [
        (None, [1, 9, 9, 9, 9, 9, 2, 9, 9, 3, 4], [3, 2, 2]),
        (11, [1, 9, 9, 9, 9, 9, 2, 9, 9, 3, 4], [3, 2, 2]),
        (10, [1, 9, 9, 9, 9, 9, 2, 9, 9, 3], [3, 2, 2]),
        (9, [1, 9, 9, 9, 9, 9, 2, 9, 9], [3, 2, 2]),
        (8, [1, 9, 9, 9, 9, 9, 2], [3, 2]),
        (7, [1, 9, 9, 9, 9, 9, 2], [3, 2]),
        (5, [1, 9, 9, 9], [3]),
        (4, [1, 9, 9, 9], [3]),
        (3, [1], []),
        (1, [1], []),
    ],
)
def test_a_cut_never_splits_an_image(max_length, ids, lengths):
    whole = np.array([1, 9, 9, 9, 9, 9, 2, 9, 9, 3, 4])
    row = EncodedRow(whole, np.where(whole == 9, IGNORE, whole), [3, 2, 2], whole == 9).cut(max_length)
    assert row.input_ids.tolist() == ids and row.image_lengths == lengths
    assert row.labels.tolist() == [IGNORE if index == 9 else index for index in ids]
    assert row.is_image.sum() == sum(lengths)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conversations())
def test_every_answer_has_its_span(row):
    text, spans = render_chat(small_processor(), row["messages"])
    assert len(spans) == sum(message["role"] == "assistant" for message in row["messages"])
    assert all(text[:start].endswith("<|assistant|>\n") and text[:end].endswith("<|end|>") for start, end in spans)
    rest = "".join(text[end:start] for (_, end), (start, _) in zip([(0, 0), *spans], spans, strict=False))
    assert text[spans[-1][1] if spans else 0 :].count("<|assistant|>") == 0
    assert rest.count("<|assistant|>") == len(spans)


def test_images_are_counted_from_their_sizes():
    assert count_tiles_and_tokens(small_processor(), [(16, 8), (16, 16)]) == [(3, 9), (5, 15)]
    assert count_tiles_and_tokens(small_processor(), [(16, 8)], "none") == [(1, 3)]


def test_rows_are_named_by_source_and_id():
    assert row_name({"id": "7", "source": "captions"}) == "captions/7"
    assert row_name({}) == "rows/?"
