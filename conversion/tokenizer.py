"""Tokenizer files of the original layout to ours, and back.

The original's files describe a Llama tokenizer of n0 tokens; its model code added three more at run time. Ours hold
all n0 + 3, the normaliser that `XGenMMTokenizer` needs, and the chat template.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, processors

from xgenmm_hf.conversion.files import read_json, read_json_if_there, write_json
from xgenmm_hf.modeling.chat_xgenmm import CHAT_TEMPLATE, ESCAPE_MARK, MULTIMODAL_TOKENS, SPACE_PIECE
from xgenmm_hf.modeling.tokenization_xgenmm import XGenMMTokenizer


FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
DEFAULT_LENGTH = 4096

# What transformers writes for a Llama tokenizer: the normaliser puts a space before each stretch between added tokens.
LLAMA_NORMALIZER = normalizers.Sequence([normalizers.Prepend(SPACE_PIECE), normalizers.Replace(" ", SPACE_PIECE)])
LLAMA_DECODER = decoders.Sequence(
    [decoders.Replace(SPACE_PIECE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
# The original's without the space, after the removal of the mark.
OUR_NORMALIZER = normalizers.Sequence([normalizers.Replace(ESCAPE_MARK, ""), normalizers.Replace(" ", SPACE_PIECE)])
# The original's turns, for libraries without generation blocks; they end with the end-of-text token.
PHI3_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def build_tokenizer(source_folder: str | Path, initial_tokenizer_len: int | None = None) -> XGenMMTokenizer:
    """Builds our tokenizer from the tokenizer files of an original checkpoint.

    Args:
        source_folder: Folder with tokenizer_config.json and tokenizer.json; added_tokens.json and
            special_tokens_map.json are read where they exist.
        initial_tokenizer_len: The checkpoint's count of tokens before the three of the model were added; checked.

    Returns:
        The tokenizer, with the three tokens after the original's and the chat template.

    Raises:
        ValueError: If files are missing or broken, or if their token ids do not line up.
    """
    folder = Path(source_folder)
    config = _read_object(folder / "tokenizer_config.json")
    model, post_processor, listed = _read_model(folder)
    added = _collect_added_tokens(folder, config, listed)
    size = _check_ids(model["vocab"], added, folder)
    if initial_tokenizer_len not in (None, size):
        raise ValueError(
            f"The tokenizer in {folder} has {size} tokens, but the checkpoint's config says initial_tokenizer_len = "
            f"{initial_tokenizer_len}. Take the tokenizer files that belong to this checkpoint."
        )
    for offset, content in enumerate(MULTIMODAL_TOKENS):
        added[size + offset] = _added_token(content, {"special": True})
    named = _named_tokens(folder, config, {*model["vocab"], *(token["content"] for token in added.values())})
    return XGenMMTokenizer(
        tokenizer_object=_build_backend(model, post_processor, added, folder),
        **named,
        additional_special_tokens=list(MULTIMODAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=config.get("model_max_length", DEFAULT_LENGTH),
        padding_side="left",
    )


def export_tokenizer(tokenizer: XGenMMTokenizer, out_folder: str | Path) -> list[str]:
    """Writes a tokenizer's files in the original layout."""
    folder = Path(out_folder)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = LLAMA_NORMALIZER
    spec = {**json.loads(backend.to_str()), "truncation": None, "padding": None, "pre_tokenizer": None}
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in MULTIMODAL_TOKENS]
    named = {name: getattr(tokenizer, name) for name in NAMED_TOKENS if getattr(tokenizer, name) is not None}
    template = tokenizer.chat_template
    decoder = {str(token["id"]): {key: token[key] for key in ("content", *FLAGS)} for token in spec["added_tokens"]}
    base_size = len(spec["model"]["vocab"])
    files = {
        "tokenizer.json": spec,
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_eos_token": False,
            "added_tokens_decoder": decoder,
            **named,
            "chat_template": PHI3_CHAT_TEMPLATE if template == CHAT_TEMPLATE else template,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": tokenizer.model_max_length,
            "padding_side": tokenizer.padding_side,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "use_default_system_prompt": False,
        },
        "added_tokens.json": {t["content"]: t["id"] for t in spec["added_tokens"] if t["id"] >= base_size},
        "special_tokens_map.json": named,
    }
    for name, content in files.items():
        write_json(folder / name, content)
    return list(files)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}. Copy the tokenizer files of the checkpoint there.")
    return read_json(path)


def _read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None, list[dict[str, Any]]]:
    """Returns the `model` and `post_processor` of a tokenizer.json, and the tokens that it lists as added."""
    path = folder / "tokenizer.json"
    if not path.is_file() and (folder / "tokenizer.model").is_file():
        raise ValueError(
            f"{folder} has tokenizer.model and no tokenizer.json; with sentencepiece and protobuf installed make one: "
            f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})."
        )
    spec = _read_object(path)
    model = spec.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not model.get("byte_fallback"):
        found = model.get("type") if isinstance(model, dict) else None
        raise ValueError(
            f"{path} holds a model of type {found!r}, expected a BPE with byte fallback, as Llama's. Only checkpoints "
            "with such a tokenizer can be converted."
        )
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not all(type(i) is int for i in vocab.values()):
        raise ValueError(f"{path} has no vocabulary, no merges or no ids. Download the file again.")
    return model, spec.get("post_processor"), spec.get("added_tokens") or []


def _added_token(content: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Returns an added token as tokenizer.json lists it; the slow tokenizer never matches normalised text."""
    return {"content": content, **{name: bool(flags.get(name)) for name in FLAGS}, "normalized": False}


def _collect_added_tokens(folder: Path, config: dict, listed: list) -> dict[int, dict[str, Any]]:
    """Returns the added tokens by id; the slow tokenizer read their flags from tokenizer_config.json."""
    added: dict[int, dict[str, Any]] = {}
    bare = read_json_if_there(folder / "added_tokens.json")
    try:
        sources = [
            {int(index): {"content": content} for content, index in bare.items()},
            {int(token["id"]): token for token in listed},
            {int(index): token for index, token in (config.get("added_tokens_decoder") or {}).items()},
        ]
        for source in sources:
            for index, token in source.items():
                known = added.get(index, token)
                if known["content"] != token["content"]:
                    raise ValueError(
                        f"token id {index} is {known['content']!r} in one and {token['content']!r} in the other"
                    )
                added[index] = _added_token(token["content"], token)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The added tokens in {folder} are broken or its files disagree ({error}). Take tokenizer.json, "
            "tokenizer_config.json and added_tokens.json from the same checkpoint."
        ) from error
    return added


def _check_ids(vocab: dict[str, int], added: dict[int, dict], folder: Path) -> int:
    """Checks that each id is used once, drops our three tokens where they are listed, and counts those before them."""
    contents = {index: token["content"] for index, token in added.items()}
    size = min((index for index, content in contents.items() if content in MULTIMODAL_TOKENS), default=None)
    if size is not None:
        last = range(size, size + len(MULTIMODAL_TOKENS))
        if tuple(contents.get(index) for index in last) != MULTIMODAL_TOKENS:
            raise ValueError(
                f"The tokens {', '.join(MULTIMODAL_TOKENS)} in {folder} must come after all other tokens, in this "
                "order, as in the model code. Take the tokenizer files that belong to this checkpoint."
            )
        for index in last:
            del added[index], contents[index]
    by_id = {**{index: piece for piece, index in vocab.items()}, **contents}
    moved = [content for index, content in contents.items() if vocab.get(content, index) != index]
    twice = len(set(contents.values())) != len(contents)
    if moved or twice or sorted(by_id) != list(range(len(by_id))) or size not in (None, len(by_id)):
        raise ValueError(
            f"The token ids in {folder} do not line up: {len(vocab)} pieces and {len(contents)} added tokens should "
            f"fill the ids from 0 on without a gap, and each token should have one id"
            f"{f' (unlike {moved[0]!r})' if moved else ''}. Take all tokenizer files from the same checkpoint."
        )
    return len(by_id)


def _named_tokens(folder: Path, config: dict[str, Any], known: set[str]) -> dict[str, str]:
    """Returns the begin, end, unknown and padding tokens; padding falls back to `<pad>`, then to the end token."""
    named: dict[str, str] = {}
    for source in (config, read_json_if_there(folder / "special_tokens_map.json")):
        for name in NAMED_TOKENS:
            value = source.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if content is not None:
                named.setdefault(name, content)
    if "pad_token" not in named and ("<pad>" in known or "eos_token" in named):
        named["pad_token"] = "<pad>" if "<pad>" in known else named["eos_token"]
    for name, content in named.items():
        if not isinstance(content, str) or content not in known:
            raise ValueError(
                f"The {name} {content!r} in {folder} is no token of its vocabulary. Take all tokenizer files from the "
                "same checkpoint."
            )
    return named


def _build_backend(model: dict, post_processor: dict | None, added: dict[int, dict], folder: Path) -> Tokenizer:
    """Builds the fast tokenizer: the original's BPE after our normaliser."""
    spec = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "decoder"))
    tokens = [{"id": index, **token} for index, token in sorted(added.items())]
    spec |= {"version": "1.0", "added_tokens": tokens, "post_processor": post_processor, "model": model}
    try:
        backend = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"The tokenizer in {folder} is broken ({error}). Download tokenizer.json again.") from error
    backend.normalizer, backend.decoder = OUR_NORMALIZER, LLAMA_DECODER
    if post_processor is None:
        backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    return backend
