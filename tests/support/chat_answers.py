"""Chats of one turn answered as one batch, to compare other ways of asking with."""

from PIL import Image

from xgenmm_hf.inference.batches import answer_texts
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import build_messages, render_prompt


def answer_chats(loaded: Loaded, asked: list[tuple[str, list[Image.Image]]], max_new_tokens: int) -> list[str]:
    texts = [render_prompt(loaded.processor, build_messages(images, text)) for text, images in asked]
    return answer_texts(loaded, texts, [image for _, images in asked for image in images], max_new_tokens)
