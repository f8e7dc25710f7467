"""The embedded model's tokenizer: a few hundred byte-pair pieces in the form of Phi-3's tokenizer.

The commonest words of the drawn images' language are one piece; any other text falls back on parts of words,
characters and bytes, so that whatever a user types can be encoded.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, trainers

from embedded_model.world.language import PLACES
from xgenmm_hf import build_tokenizer


# Phi-3's control tokens; True marks those that swallow the white space after them.
_CONTROL_TOKENS = {
    "<|endoftext|>": False,
    "<|assistant|>": True,
    "<|system|>": True,
    "<|end|>": True,
    "<|user|>": True,
    "<pad>": False,
}
# The words that are one piece each, with and without a space before them. The list belongs to the trained weights: a
# language that grows leaves it as it is, and spells new words in parts of known ones.
_WORDS = Path(__file__).with_name("words.txt")
_SPACE = "\u2581"
_MAX_LENGTH = 2048


def build_embedded_tokenizer() -> Any:
    """Builds the tokenizer.

    Returns:
        An `XGenMMTokenizer` whose last three tokens are `<image>`, `<image placeholder>` and `<|endofchunk|>`.
    """
    named = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "LlamaTokenizer", **named, "legacy": False, "model_max_length": _MAX_LENGTH}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.json").write_text(json.dumps(_phi3_style_file()), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return build_tokenizer(folder)


def _phi3_style_file() -> dict[str, Any]:
    """Returns the contents of a tokenizer.json as Phi-3's, with our pieces."""
    pieces = _train_pieces()
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    merged = sorted((piece for piece in pieces["vocab"] if len(piece) > 1), key=pieces["vocab"].get)
    alphabet = [_SPACE, *map(chr, range(ord("!"), ord("~") + 1))]
    vocab = {piece: index for index, piece in enumerate([*reserved, *merged, *alphabet])}
    control = [("<unk>", 0, False, True), ("<s>", 1, False, True), ("</s>", 2, True, False)]
    control += [
        (token, len(vocab) + offset, rstrip, True) for offset, (token, rstrip) in enumerate(_CONTROL_TOKENS.items())
    ]
    flags = {"single_word": False, "lstrip": False, "normalized": False}
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": content, "rstrip": rstrip, "special": special, **flags}
            for content, index, rstrip, special in control
        ],
        "model": {**model, "vocab": vocab, "merges": pieces["merges"]},
    }


def _train_pieces() -> dict[str, Any]:
    """Learns merges until each word of the language is one piece, and joins the two words of a corner's name.

    All other words are learnt apart. In one token "top left" calls for its place directly; in two, "left" would call
    for the left edge, and the model would first have to learn to put the two together.
    """
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=1 << 14, min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator(_WORDS.read_text(encoding="utf-8").split(), trainer)
    pieces = json.loads(tokenizer.to_str())["model"]
    for vertical, horizontal in (place.split() for place in PLACES if " " in place):
        for first in (vertical, _SPACE + vertical):
            pieces["merges"].append([first, _SPACE + horizontal])
            pieces["vocab"][first + _SPACE + horizontal] = len(pieces["vocab"])
    return pieces
