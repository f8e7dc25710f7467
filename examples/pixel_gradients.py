"""Gradients at the pixels: an attack within 8/255, and which pixels an answer rests on.

    python examples/pixel_gradients.py [IMAGE --question TEXT --target WORD] [--model PATH] [--output FILE]

Projected gradient descent changes an image, by at most --epsilon levels of 255 per value, until the model answers
something else; noise of the same size without a gradient does not. With captum installed (extra `research`), saliency
and integrated gradients of the first answer are drawn over the image.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import xgenmm_hf
from xgenmm_hf import load


IMAGES = Path(xgenmm_hf.TINY_MODEL).parent / "images"


def main() -> None:
    """Reads the arguments, attacks, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(IMAGES / "1-shapes.png"))
    parser.add_argument("--question", default="What color is the star?")
    parser.add_argument("--target", default="red", help="what the model should answer to the changed image")
    parser.add_argument("--epsilon", type=int, default=8, help="largest change of a value, of 255 levels")
    parser.add_argument("--steps", type=int, default=30, help="most steps of the attack")
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument(
        "--output", type=Path, help="file for the image, the changed image and the drawings, side by side"
    )
    args = parser.parse_args()
    asker = Asker(args.model, args.question)
    image = as_tensor(Image.open(args.image))
    answer = asker.answer(image)
    changed = attack(asker, image, args.target, args.epsilon / 255, args.steps)
    noise = torch.randint(0, 2, image.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noisy = (image + noise * args.epsilon / 255).clamp(0, 1)
    print(f"{args.question} {answer}")
    print(f"noise of {levels(noisy - image)}/255: {asker.answer(noisy)}")
    print(f"gradient, {levels(changed - image)}/255: {asker.answer(changed)}")
    panels = [as_image(image), as_image(changed)]
    if find_spec("captum"):
        for name, heat in attributions(asker, image, answer).items():
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            print(f"{name}: the hottest pixel is in row {row}, column {column}")
            panels.append(draw(image, heat))
    if args.output:
        width, height = (round(side * 240 / image.shape[1]) for side in (image.shape[2], image.shape[1]))
        figure = Image.new("RGB", (len(panels) * width, height))
        for place, panel in enumerate(panels):
            figure.paste(panel.resize((width, height)), (place * width, 0))
        figure.save(args.output, optimize=True)


class Asker:
    """A model with frozen weights and one question, for images that are tensors.

    Args:
        model: Checkpoint folder or Hub repository.
        question: The question.
    """

    def __init__(self, model: str, question: str):
        loaded = load(model)
        self.model, self.processor = loaded.model.requires_grad_(False), loaded.processor
        content = [{"type": "image"}, {"type": "text", "text": question}]
        self.prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def inputs(self, image: torch.Tensor, answer: str = "") -> dict[str, torch.Tensor]:
        """Returns the inputs of images, (batch, 3, height, width), whose tiles carry the images' graph."""
        images = image.unsqueeze(0) if image.dim() == 3 else image
        blank = Image.new("RGB", (images.shape[3], images.shape[2]))
        prompts = self.processor(
            images=[blank] * len(images), text=[self.prompt + answer] * len(images), return_tensors="pt"
        ).to(self.model.device)
        return {**prompts, **self.processor.image_processor.preprocess_tensor(images.to(self.model.device))}

    def answer(self, image: torch.Tensor) -> str:
        """Returns the greedy answer to an image as it would be stored: in 256 levels, through the exact path."""
        inputs = self.processor(images=[as_image(image)], text=self.prompt, return_tensors="pt").to(
            self.model.device, self.model.dtype
        )
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=16, do_sample=False)
        return self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def log_probability(self, image: torch.Tensor, answer: str) -> torch.Tensor:
        """Returns the log-probability of an answer to each image, (batch,)."""
        inputs = self.inputs(image, answer)
        start = self.inputs(image)["input_ids"].shape[1]
        scores = self.model(**inputs).logits[:, start - 1 : -1].float().log_softmax(-1)
        return scores.gather(-1, inputs["input_ids"][:, start:, None]).sum((1, 2))


def attack(asker: Asker, image: torch.Tensor, target: str, epsilon: float, steps: int) -> torch.Tensor:
    """Changes an image by projected gradient descent until the model gives the target's answer, or steps run out."""
    change = torch.zeros_like(image)
    for _ in range(steps):
        change.requires_grad_()
        (gradient,) = torch.autograd.grad(asker.log_probability((image + change).clamp(0, 1), target).sum(), change)
        change = (change.detach() + gradient.sign() * epsilon / 4).clamp(-epsilon, epsilon)
        changed = ((image + change).clamp(0, 1) * 255).round() / 255
        if asker.answer(changed) == target:
            break
    return changed


def attributions(asker: Asker, image: torch.Tensor, answer: str) -> dict[str, np.ndarray]:
    """Returns saliency and integrated gradients of an answer's log-probability, (height, width) each."""
    from captum.attr import IntegratedGradients, Saliency

    def score(images: torch.Tensor) -> torch.Tensor:
        return asker.log_probability(images, answer)

    batch = image.unsqueeze(0).requires_grad_()
    gray = torch.full_like(batch, 0.5, requires_grad=False)
    found = {
        "saliency": Saliency(score).attribute(batch),
        "integrated gradients": IntegratedGradients(score).attribute(batch, gray, n_steps=16, internal_batch_size=4),
    }
    return {name: values[0].detach().abs().sum(0).cpu().numpy() for name, values in found.items()}


def as_tensor(image: Image.Image) -> torch.Tensor:
    """Returns an image as floats in [0, 1], (3, height, width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def as_image(values: torch.Tensor) -> Image.Image:
    """Returns floats in [0, 1], (3, height, width), as an image of 256 levels."""
    return Image.fromarray((values * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def levels(change: torch.Tensor) -> int:
    """Returns the largest change of a value in levels of 255."""
    return round(float(change.abs().max()) * 255)


def draw(image: torch.Tensor, heat: np.ndarray) -> Image.Image:
    """Returns the image in gray with the hottest pixels in red."""
    shown = np.asarray(as_image(image).convert("L").convert("RGB"), dtype=float) * 0.6
    share = np.clip(heat / np.quantile(heat, 0.995), 0, 1)[..., None]
    return Image.fromarray((shown * (1 - share) + np.array([255.0, 40, 0]) * share).astype(np.uint8))


if __name__ == "__main__":
    main()
