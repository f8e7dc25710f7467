"""VLMEvalKit's wrapper and our adapter: the same answers on the same checkpoint.

The wrapper's calls are made here in the order in which it makes them; where VLMEvalKit is installed its own file runs
as well, on the CPU, and its own code asks a local data set and scores it. It brings many packages along, so it is no
part of the development environment; `docs/evaluation.md` says how to install it. Without it our adapter is tested on
an empty base class.
"""

import base64
import importlib
import io
import json
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from embedded_model.measure.held_out import held_out_questions
from embedded_model.world.render import render
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer

from xgenmm_hf import TINY_MODEL, AutoModelForVision2Seq
from xgenmm_hf.conversion.convert import convert_checkpoint
from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.inference.loading import load
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM


FIXTURES = Path(__file__).parents[2] / "fixtures"
INSTALLED = find_spec("vlmeval") is not None
TOKENS = 24


@pytest.fixture(scope="module")
def adapter():
    """Our adapter's module, on VLMEvalKit or on a stand-in for its base class."""
    before = set(sys.modules)
    if INSTALLED:
        grad = torch.is_grad_enabled()
        yield importlib.import_module("xgenmm_hf.evaluation.harness.vlmevalkit")
        torch.set_grad_enabled(grad)  # VLMEvalKit turns it off for good
        return
    for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base", "vlmeval.config"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["vlmeval"].vlm = sys.modules["vlmeval.vlm"]
    sys.modules["vlmeval.vlm.base"].BaseModel = type("BaseModel", (), {})
    sys.modules["vlmeval.config"].supported_VLM = {}
    yield importlib.import_module("xgenmm_hf.evaluation.harness.vlmevalkit")
    for name in set(sys.modules) - before:
        if name.startswith("vlmeval") or name.endswith("harness.vlmevalkit"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """Questions about drawn images, one with two images between its texts, one without any."""
    folder = tmp_path_factory.mktemp("images")
    messages = []
    for index, (scene, question) in enumerate(held_out_questions(6)):
        path = folder / f"{index}.png"
        render(scene, 128).save(path)
        messages.append([{"type": "image", "value": str(path)}, {"type": "text", "value": question.text}])
    images = [{"type": "image", "value": str(folder / f"{index}.png")} for index in (0, 1)]
    say = [{"type": "text", "value": text} for text in ("Here is one: ", " and another: ", "How many shapes?")]
    return [*messages, [say[0], images[0], say[1], images[1], say[2]], [{"type": "text", "value": "Hello?"}]]


@pytest.fixture(scope="module")
def golden_checkpoint(tmp_path_factory):
    """The golden checkpoint in the original layout, its vocabulary grown to the small tokenizer's, converted."""
    source, out = tmp_path_factory.mktemp("golden"), tmp_path_factory.mktemp("converted") / "model"
    golden, tokenizer = FIXTURES / "golden" / "anyres" / "checkpoint", FIXTURES / "tokens" / "source"
    for file in (golden / "vision_config.json", *tokenizer.iterdir()):
        (source / file.name).write_bytes(file.read_bytes())
    config = read_json(golden / "config.json")
    config["text_config"] |= {"initial_tokenizer_len": 524, "vocab_size": 544}
    tensors = load_file(golden / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if tensor.shape[0] == 320 and ("embed_tokens" in name or "lm_head" in name):
            more = torch.randn(224, *tensor.shape[1:], generator=generator) * tensor.std()
            tensors[name] = torch.cat([tensor, more.to(tensor.dtype)])
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(config))
    convert_checkpoint(source, out)
    return str(out)


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """The embedded model as it is saved, with the code that a trust_remote_code call looks for."""
    loaded, folder = load(TINY_MODEL, dtype="float32"), tmp_path_factory.mktemp("tiny")
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return str(folder)


def wrappers_answer(path: str, messages: list) -> list[str]:
    """Makes the calls of VLMEvalKit's wrapper, one question after another."""
    model = AutoModelForVision2Seq.from_pretrained(path, trust_remote_code=True, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True, use_fast=False, legacy=False)
    tokenizer = model.update_special_tokens(tokenizer)
    tokenizer.eos_token, tokenizer.padding_side = "<|end|>", "left"
    image_processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
    answers = []
    for message in messages:
        text, tiles, sizes = "", [], []
        for part in message:
            if part["type"] == "text":
                text += part["value"]
                continue
            image = Image.open(part["value"]).convert("RGB")
            tiles.append(image_processor([image], image_aspect_ratio="anyres")["pixel_values"])
            sizes.append(image.size)
            text += "<image> "
        prompt = f"<|system|>\n{RELEASED_SYSTEM}<|end|>\n<|user|>\n{text}<|end|>\n<|assistant|>\n"
        output = model.generate(
            pixel_values=[tiles],
            **tokenizer([prompt], return_tensors="pt"),
            image_size=[sizes],
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            max_new_tokens=TOKENS,
            temperature=0.0,
            do_sample=False,
            top_p=None,
            num_beams=1,
        )
        answers.append(tokenizer.decode(output[0], skip_special_tokens=True).split("<|end|>")[0])
    return answers


def answers_together(model, messages: list) -> list[str]:
    """What our adapter answers to several messages in one batch."""
    return model._answer([model.converse(message) for message in messages])


@pytest.mark.parametrize("checkpoint", ["tiny", "golden"])
def test_wrappers_calls_and_adapter_agree(adapter, messages, tiny_checkpoint, golden_checkpoint, checkpoint):
    path = tiny_checkpoint if checkpoint == "tiny" else golden_checkpoint
    model = adapter.XGenMMBatched(path, dtype="float32", device="cpu", max_new_tokens=TOKENS)
    asked = messages[:-1]  # the wrapper cannot ask without an image
    expected = [answer.strip() for answer in wrappers_answer(path, asked)]
    assert len(set(expected)) > 2
    assert [model.generate_inner(message) for message in asked] == expected
    assert answers_together(model, asked) == expected


def test_threads_are_answered_together(adapter, messages):
    one = adapter.XGenMMBatched(TINY_MODEL, device="cpu", max_new_tokens=8)
    many = adapter.XGenMMBatched(TINY_MODEL, batch_size=4, device="cpu", max_new_tokens=8)
    assert (one.is_api, many.is_api) == (False, True)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(many.generate_inner, messages))
    assert answers == [one.generate_inner(message, "MMBench") for message in messages]
    bad = [{"type": "image", "value": "gone.png"}, {"type": "text", "value": "What?"}]
    with pytest.raises(ValueError, match="no image at"):
        many.generate_inner(bad)


def test_register(adapter):
    adapter.register("test-model", TINY_MODEL, batch_size=2, device="cpu")
    known = sys.modules["vlmeval.config"].supported_VLM
    assert known["test-model"]().is_api
    with pytest.raises(ValueError, match="batch_size is 0"):
        known["test-model"](batch_size=0)


@pytest.mark.skipif(not INSTALLED, reason="VLMEvalKit is not installed")
def test_shipped_wrapper_gives_the_same_answers(adapter, messages, tiny_checkpoint, golden_checkpoint, monkeypatch):
    """The installed file itself, with the CPU in the place of the GPU that it names."""
    from vlmeval.vlm import xgen_mm

    # Transformers 5 no longer has the class that the file imports; ours answers to its name there.
    monkeypatch.setattr(sys.modules["transformers"], "AutoModelForVision2Seq", AutoModelForVision2Seq, raising=False)
    code = Path(xgen_mm.__file__).read_text(encoding="utf-8").replace("'cuda'", "'cpu'")
    module = types.ModuleType("vlmeval.vlm.xgen_mm_on_cpu")
    module.__package__ = "vlmeval.vlm"
    exec(compile(code, xgen_mm.__file__, "exec"), module.__dict__)
    asked = messages[:-1]
    for path in (tiny_checkpoint, golden_checkpoint):
        wrapper = module.XGenMM(path, max_new_tokens=TOKENS)
        ours = adapter.XGenMMBatched(path, device="cpu", max_new_tokens=TOKENS)
        wrapper.model.float()
        expected = [wrapper.generate_inner(message).strip() for message in asked]
        assert answers_together(ours, asked) == expected


@pytest.mark.skipif(not INSTALLED, reason="VLMEvalKit is not installed")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_end_to_end(adapter, tmp_path, monkeypatch, batch_size):
    """A local multiple-choice file: VLMEvalKit builds the prompts, asks, and scores by exact matching."""
    import pandas
    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job

    rows = []
    for scene, question in held_out_questions(40):
        if question.answer in ("yes", "no"):
            buffer = io.BytesIO()
            render(scene, 128).save(buffer, format="JPEG", quality=95)
            image = base64.b64encode(buffer.getvalue()).decode()
            letter = "A" if question.answer == "yes" else "B"
            rows.append(
                {
                    "index": len(rows),
                    "image": image,
                    "question": question.text,
                    "A": "yes",
                    "B": "no",
                    "answer": letter,
                }
            )
    rows[0]["answer"] = "AB"["AB".index(rows[0]["answer"]) - 1]  # a wrong letter: not every answer counts as right
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("PRED_FORMAT", "tsv")
    pandas.DataFrame(rows).to_csv(tmp_path / "DrawnShapes.tsv", sep="\t", index=False)
    data = build_dataset("DrawnShapes")
    work = tmp_path / "work"
    work.mkdir()
    model = adapter.XGenMMBatched(TINY_MODEL, device="cpu", max_new_tokens=12)
    ours = answers_together(model, [data.build_prompt(row) for row in range(len(rows))])
    adapter.register("tiny", TINY_MODEL, batch_size=batch_size, device="cpu", max_new_tokens=12)
    infer_data_job("tiny", str(work), "tiny", data, api_nproc=4)
    file = next(work.glob("tiny_DrawnShapes*.*"))
    told = pandas.read_csv(file, sep="\t") if file.suffix == ".tsv" else pandas.read_excel(file)
    assert [str(answer) for answer in told["prediction"]] == ours
    scores = data.evaluate(str(file), model="exact_matching")
    right = [answer == row[row["answer"]] for answer, row in zip(ours, rows, strict=True)]
    assert 0 < sum(right) < len(rows)
    assert float(scores["Overall"].iloc[0]) == pytest.approx(sum(right) / len(rows))
