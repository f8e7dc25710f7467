"""Tokenizer files of the original layout become ours and go back unchanged; broken files are refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest

from xgenmm_hf.conversion.tokenizer import build_tokenizer, export_tokenizer
from xgenmm_hf.modeling.chat_xgenmm import CHAT_TEMPLATE


TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS / "fixtures" / "tokens" / "source"
ORIGINAL = TESTS.parents[1] / "shared" / "original"
NEEDS_ORIGINAL = pytest.mark.skipif(not (ORIGINAL / "tokenizer.json").is_file(), reason="needs ../shared")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path, change):
    content = read_json(path)
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def exported(tmp_path):
    """A folder in the original form."""
    export_tokenizer(build_tokenizer(SOURCE), tmp_path)
    return tmp_path


def test_three_tokens_follow_the_originals():
    tokenizer = build_tokenizer(SOURCE, initial_tokenizer_len=524)
    assert [tokenizer.convert_ids_to_tokens(index) for index in (523, 524, 525, 526)] == [
        *("<pad>", "<image>", "<image placeholder>", "<|endofchunk|>")
    ]
    assert len(tokenizer) == 527
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (4096, "left")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "<|endoftext|>")
    assert tokenizer.added_tokens_decoder[519].rstrip
    assert not tokenizer.added_tokens_decoder[2].special


def test_a_sentencepiece_model_alone_is_refused_with_its_remedy(tmp_path):
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = shutil.copytree(SOURCE, tmp_path / "alone")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"make one: transformers\.AutoTokenizer") as caught:
        build_tokenizer(folder)
    exec("import transformers\n" + str(caught.value).split("make one: ")[1].rstrip("."))
    ours, theirs = build_tokenizer(folder), build_tokenizer(SOURCE)
    for text in ("what is   this", "🙂 naïve", "\n\tred<|end|>", "<s> is"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_export_has_the_originals_form(exported):
    spec, config = read_json(exported / "tokenizer.json"), read_json(exported / "tokenizer_config.json")
    assert spec["normalizer"]["normalizers"][0] == {"type": "Prepend", "prepend": "▁"}
    assert [token["id"] for token in spec["added_tokens"]] == [0, 1, 2, *range(512, 524)]
    assert (config["tokenizer_class"], config["legacy"]) == ("LlamaTokenizer", False)
    assert "{% generation" not in config["chat_template"], "the original's library has no such block"
    original = read_json(SOURCE / "tokenizer_config.json")
    assert {name: config[name] for name in original} == original
    assert read_json(exported / "added_tokens.json") == read_json(SOURCE / "added_tokens.json")


def test_tokens_that_are_already_there_are_taken(exported):
    tokenizer = build_tokenizer(SOURCE)
    tokens = {str(i): {"content": t, "special": True} for i, t in enumerate(tokenizer.all_special_tokens[-3:], 524)}
    edit_json(exported / "tokenizer_config.json", lambda config: config["added_tokens_decoder"].update(tokens))
    assert build_tokenizer(exported, 524).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_padding_token_has_a_default(exported):
    (exported / "special_tokens_map.json").unlink()
    edit_json(exported / "tokenizer_config.json", lambda config: config.pop("pad_token"))
    assert build_tokenizer(exported).pad_token == "<pad>"


# Broken files


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:300])


def edit(name, change):
    return lambda folder: edit_json(folder / name, change)


def no_files(folder):
    for path in folder.glob("tokenizer.*"):
        path.unlink()


BROKEN = {
    "no config": (remove("tokenizer_config.json"), "has no tokenizer_config.json"),
    "no tokenizer": (no_files, "has no tokenizer.json"),
    "cut config": (cut("tokenizer_config.json"), "is not valid JSON"),
    "cut tokenizer": (cut("tokenizer.json"), "is not valid JSON"),
    "a list": (lambda f: (f / "tokenizer.json").write_text("[]"), "expected a JSON object"),
    "not utf-8": (lambda f: (f / "tokenizer.json").write_bytes(b'{"a": "\xff"}'), "is not valid JSON"),
    "no model": (edit("tokenizer.json", lambda s: s.pop("model")), "expected a BPE"),
    "another model": (
        edit("tokenizer.json", lambda s: s["model"].update(type="Unigram")),
        "'Unigram', expected a BPE",
    ),
    "no merges": (edit("tokenizer.json", lambda s: s["model"].pop("merges")), "no merges"),
    "foreign merges": (edit("tokenizer.json", lambda s: s["model"]["merges"].append(["x", "yzzy"])), "is broken"),
    "odd ids": (edit("tokenizer.json", lambda s: s["model"]["vocab"].update(a="1")), "no ids"),
    "gap": (edit("tokenizer.json", lambda s: s["model"]["vocab"].update(zzz=9000)), "do not line up"),
    "same id twice": (edit("tokenizer.json", lambda s: s["model"]["vocab"].update({"<|end|>": 7})), "do not line up"),
    "disagreement": (edit("added_tokens.json", lambda a: a.update({"<other>": 519})), "files disagree"),
    "one token moved": (edit("added_tokens.json", lambda a: a.update({"<pad>": 9})), "do not line up"),
    "ours elsewhere": (
        edit("added_tokens.json", lambda a: a.update({"<image>": 530})),
        "must come after all other tokens",
    ),
    "odd decoder": (
        edit("tokenizer_config.json", lambda c: c.update(added_tokens_decoder=["<s>"])),
        "added tokens in .* are broken",
    ),
    "unknown end": (edit("tokenizer_config.json", lambda c: c.update(eos_token="<eos>")), "'<eos>' .* is no token"),
    "odd end": (edit("tokenizer_config.json", lambda c: c.update(eos_token=["<s>"])), "is no token"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(exported, name):
    damage, reason = BROKEN[name]
    damage(exported)
    with pytest.raises(ValueError, match=reason):
        build_tokenizer(exported)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="has 524 tokens, but .* initial_tokenizer_len = 32012"):
        build_tokenizer(SOURCE, initial_tokenizer_len=32012)


# The released tokenizer


@NEEDS_ORIGINAL
def test_the_released_tokenizer_goes_back_unchanged(tmp_path):
    export_tokenizer(build_tokenizer(ORIGINAL, 32012), tmp_path)
    exported, original = read_json(tmp_path / "tokenizer.json"), read_json(ORIGINAL / "tokenizer.json")
    for spec in (exported, original):
        spec["model"]["merges"] = [tuple(m.split(" ") if isinstance(m, str) else m) for m in spec["model"]["merges"]]
    assert exported == original
    config, wanted = read_json(tmp_path / "tokenizer_config.json"), read_json(ORIGINAL / "tokenizer_config.json")
    assert {**config, "chat_template": None} == {**wanted, "chat_template": None}
    assert read_json(tmp_path / "added_tokens.json") == read_json(ORIGINAL / "added_tokens.json")
