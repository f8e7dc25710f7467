"""What studies of the family do: attribution with captum, patching by hooks, adapters, a logit lens."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutput

import xgenmm_hf
from xgenmm_hf import XGenMMImageProcessor, load


IMAGES = Path(xgenmm_hf.TINY_MODEL).parent / "images"


def test_integrated_gradients_of_pixels_add_up(make_model):
    """Captum's attribution of a logit to pixels sums to the logit's change from the baseline."""
    attr = pytest.importorskip("captum.attr")
    model = make_model().requires_grad_(False)
    processor = XGenMMImageProcessor(size=16, anyres_grids=model.config.anyres_grids)

    def score(images: torch.Tensor) -> torch.Tensor:
        tiles = processor.preprocess_tensor(images)
        count = int(tiles["image_num_tiles"][0]) * 4
        ids = torch.cat([torch.arange(5, 9), torch.full((count,), 100), torch.arange(9, 14)])
        return model(input_ids=ids.repeat(len(images), 1), **tiles).logits[:, -1, 7]

    image, gray = torch.rand(1, 3, 20, 21), torch.full((1, 3, 20, 21), 0.5)
    options = {"n_steps": 32, "internal_batch_size": 16, "return_convergence_delta": True}
    found, delta = attr.IntegratedGradients(score).attribute(image, gray, **options)
    with torch.no_grad():
        change = score(image) - score(gray)
    assert found.shape == image.shape and (found != 0).float().mean() > 0.9
    torch.testing.assert_close(found.sum(), change.squeeze(), rtol=0.02, atol=1e-3)
    assert abs(float(delta)) < 0.02 * abs(float(change)) + 1e-3
    saliency = attr.Saliency(score).attribute(image)
    assert saliency.shape == image.shape and (saliency >= 0).all()


def test_swapping_latents_swaps_the_answers():
    """Hooks on `model.resampler`: with the other image's latents, the embedded model describes the other image."""
    loaded = load(xgenmm_hf.TINY_MODEL, dtype="float32", device="cpu")
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image."}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    shown = [row["image"] for row in json.loads((IMAGES / "images.json").read_text()) if row["layout"] == "square"]
    prompts = [
        loaded.processor(images=[Image.open(IMAGES / name).convert("RGB")], text=text, return_tensors="pt")
        for name in shown[:2]
    ]

    def answer(inputs, hook) -> str:
        handle = loaded.model.get_submodule("model.resampler").register_forward_hook(hook)
        with torch.inference_mode():
            output = loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False)
        handle.remove()
        return loaded.processor.decode(output[0, inputs["input_ids"].shape[1] :])

    latents = []
    plain = [answer(inputs, lambda _, __, output: latents.append(output.last_hidden_state)) for inputs in prompts]
    assert plain[0] != plain[1] and len(latents) == 2 and latents[0].shape == latents[1].shape
    swapped = [
        answer(inputs, lambda _, __, ___, other=other: BaseModelOutput(last_hidden_state=other))
        for inputs, other in zip(prompts, reversed(latents), strict=True)
    ]
    assert swapped == plain[::-1]


def test_an_adapter_on_the_resampler_alone(make_model, prompt):
    peft = pytest.importorskip("peft")
    model = make_model()
    labels = prompt["input_ids"]
    with torch.no_grad():
        before = model(**prompt).logits
    where = r"model\.resampler\.layers\.\d+\.(attention\.(q_proj|kv_proj|out_proj)|mlp\.fc[12])"
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=where)).train()
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 2 * 5 and all(".resampler.layers." in name for name in trained)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=3e-2)
    losses = []
    for _ in range(8):
        loss = adapted(**prompt, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with torch.no_grad():
        after = adapted.eval()(**prompt).logits
        with adapted.disable_adapter():
            torch.testing.assert_close(adapted(**prompt).logits, before)
        assert (after - before).abs().max() > 1e-3
        torch.testing.assert_close(adapted.merge_and_unload()(**prompt).logits, after, atol=1e-5, rtol=1e-4)


def test_logit_lens_over_the_decoder(make_model, prompt):
    """Norm and head on every layer's state, by hooks on the documented names; the last gives the model's logits."""
    model = make_model()
    decoder, states = model.get_submodule("model.language_model"), []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        outputs = model(**prompt, output_hidden_states=True)
        lens = [model.lm_head(decoder.norm(state)) for state in states]
        assert len(lens) == len(outputs.hidden_states) - 1
        # the library's last hidden state has the final norm on it already, the others have not
        torch.testing.assert_close(model.lm_head(decoder.norm(outputs.hidden_states[-2])), lens[-2])
        torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    torch.testing.assert_close(lens[-1], outputs.logits)
    assert (lens[0] - lens[-1]).abs().max() > 1e-2
