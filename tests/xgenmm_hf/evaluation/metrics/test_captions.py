"""CIDEr against a slow implementation of CIDEr-D; the tokenizer against Stanford's PTBTokenizer.

treebank_tokens.json holds captions written for this test with the tokens that PTBTokenizer (CoreNLP 3.4.1, called as
COCO's evaluation calls it, its punctuation removed) makes of them.
"""

import json
import math
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from xgenmm_hf.evaluation.metrics.captions import caption_tokens, cider, tokenizer_in_use


TREEBANK = json.loads(Path(__file__).with_name("treebank_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", TREEBANK, ids=lambda row: row["caption"][:40])
def test_tokens_are_those_of_the_treebank_tokenizer(row):
    assert " ".join(caption_tokens(row["caption"])) == row["tokens"]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("Two ducks floating in a green, grassy pond.", "two ducks floating in a green grassy pond"),
        ("A bed sits in a room with a whole wall as a mirror.", "a bed sits in a room with a whole wall as a mirror"),
        ("A peerson standing on the end of a trolley.", "a peerson standing on the end of a trolley"),
    ],
)
def test_tokens_of_captions_published_with_coco_s_evaluation(caption, tokens):
    # misc/debug.ref.json and debug.tokenized_ref.json of coco-caption, less the punctuation that it removes later.
    assert " ".join(caption_tokens(caption)) == tokens


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
def test_pycocoevalcaps_tokenizer_is_used_where_java_is(monkeypatch):
    """With and without Java the same scores, on the recorded captions."""
    pytest.importorskip("pycocoevalcap")
    answers = [row["caption"] for row in TREEBANK]
    references = [[row["caption"], "A next one"] for row in TREEBANK[::-1]]
    assert "Java" in tokenizer_in_use()
    with_java = cider(answers, references)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no Java" in tokenizer_in_use()
    assert cider(answers, references) == pytest.approx(with_java)


def test_typographic_signs_are_plain_ones():
    assert caption_tokens("it’s “red” – not blue…") == ["it", "'s", "red", "not", "blue"]
    assert caption_tokens("") == []


def grams(text, size):
    words = caption_tokens(text)
    return Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))


def slow_cider(answers, references, sigma=6.0):
    """CIDEr-D by its formulas, for one n at a time."""
    scores = []
    for answer, texts in zip(answers, references, strict=True):
        per_size = []
        for size in (1, 2, 3, 4):
            seen = Counter(
                gram for group in references for gram in set().union(*(grams(text, size) for text in group))
            )

            def vector(text, size=size, seen=seen):
                rarity = math.log(len(references))
                return {gram: n * (rarity - math.log(max(1, seen[gram]))) for gram, n in grams(text, size).items()}

            said, similarities = vector(answer), []
            for text in texts:
                true = vector(text)
                product = sum(min(weight, true[gram]) * true[gram] for gram, weight in said.items() if gram in true)
                norms = math.hypot(*said.values()) * math.hypot(*true.values()) if said and true else 0
                gap = len(caption_tokens(answer)) - len(caption_tokens(text))
                similarities.append(math.exp(-(gap**2) / (2 * sigma**2)) * (product / norms if norms else 0))
            per_size.append(sum(similarities) / len(similarities))
        scores.append(10 * sum(per_size) / 4)
    return scores


def test_cider_of_random_captions_is_that_of_a_slow_implementation(monkeypatch):
    pytest.importorskip("pycocoevalcap")
    # Whether a final "a." keeps its stop depends on the next line in Java's tokenizer.
    monkeypatch.setattr(shutil, "which", lambda name: None)
    rng = random.Random(0)
    words = ["a", "the", "dog", "cat", "runs", "sits", "on", "grass", "table", "red", "big", "and", "is"]

    def caption(least=1):
        return " ".join(rng.choice(words) for _ in range(rng.randint(least, 9))) + rng.choice(["", ".", "!"])

    references = [[caption() for _ in range(rng.randint(1, 5))] for _ in range(30)]
    answers = [rng.choice([caption(), rng.choice(texts)]) for texts in references]
    assert cider(answers, references) == pytest.approx(slow_cider(answers, references))


def test_an_answer_without_words_scores_nothing():
    pytest.importorskip("pycocoevalcap")
    assert cider(["", "a dog", "a cat"], [["a bird"], ["a dog"], ["a fish"]])[0] == 0


def test_without_the_library_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(ValueError, match=r"pip install xgenmm-hf\[eval\]"):
        cider(["a dog"], [["a dog"]])
