"""The page itself: four tabs over one or several models, built with Gradio.

The page loads nothing from other sites: no fonts, no telemetry. Errors are shown in place of answers, because a raised
error would lock Gradio's chat and cover its forms.
"""

import functools
import html
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


# Read when Gradio is imported; a user's own setting stays.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

import xgenmm_hf
from xgenmm_hf.demo.cutting import view_cut
from xgenmm_hf.demo.talk import ERROR_MARK, Desk, messages_of_page, open_upload
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"
NUM_SHOTS = 4
NUM_FILLED = 2
MAX_FILE_SIZE = "20mb"
MAX_WAITING = 64
BUTTONS: list[Any] = ["download", "fullscreen"]
SYSTEMS = {"the checkpoint's own": None, "the released models'": RELEASED_SYSTEM, "none": ""}
NO_BASE = (
    "No base model is loaded (`xgenmm demo --model` takes several); instruct models were not trained on this form."
)
FURTHER_QUESTIONS = ("How many shapes are there?", "What color is the largest one?", "Describe this image.")


def plain_chatbot(**options: Any) -> gr.Chatbot:
    """Returns a chat that shows messages as plain text, so that they neither run nor load anything.

    Gradio shows text as HTML even if it renders no Markdown, so text is escaped on its way to the browser and back.
    """
    chatbot = gr.Chatbot(render_markdown=False, latex_delimiters=[], sanitize_html=True, **options)
    to_browser, from_browser = chatbot.postprocess, chatbot.preprocess
    escape = functools.partial(html.escape, quote=False)
    # set on the object, because Gradio writes a file next to the module of a subclass
    chatbot.postprocess = lambda value: to_browser(_map_texts(value, escape))  # type: ignore[method-assign]
    chatbot.preprocess = lambda payload: _map_texts(from_browser(payload), html.unescape)  # type: ignore[method-assign]
    return chatbot


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Changes the texts of a chat, of one of its messages, or of a part of one; all else stays."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(one, change) for one in value]
    if isinstance(value, dict):
        return {**value, **{key: _map_texts(value[key], change) for key in ("content", "text") if key in value}}
    return value


def build_page(
    loaded: Loaded, name: str, base: Loaded | None = None, others: Mapping[str, Loaded] | None = None
) -> gr.Blocks:
    """Builds the page for one or several models.

    Args:
        loaded: Model and processor.
        name: What the model is called on the page.
        base: Model of the few-shot tab; default: the first base model among all, else the same model.
        others: Further models by name; a visitor chooses among all of them.

    Returns:
        The page; `launch_page` serves it.
    """
    desks = {name: Desk(loaded), **{other: Desk(one) for other, one in (others or {}).items()}}
    few_shot = next((desk for desk in desks.values() if desk.is_base), desks[name]) if base is None else Desk(base)
    with gr.Blocks(title="xGen-MM", analytics_enabled=False, fill_height=True) as page:
        gr.Markdown("# xGen-MM")
        model = gr.Dropdown(list(desks), value=name, label="model", visible=len(desks) > 1, elem_id="model")
        facts = gr.HTML(_facts(name, desks[name]), elem_id="facts")
        model.change(lambda chosen: _facts(chosen, desks[chosen]), model, facts, api_name="facts")
        with gr.Tab("Chat"):
            add_chat(desks, model)
        with gr.Tab("Tiles"):
            add_tiles(desks, model)
        with gr.Tab("Attention"):
            add_attention(desks, model)
        with gr.Tab("Few-shot"):
            add_few_shot(few_shot)
    return page


def _facts(name: str, desk: Desk) -> str:
    return html.escape(f"{name}: {desk.facts}")


def launch_page(page: gr.Blocks, **options: Any) -> Any:
    """Serves a page, by default on the loopback address only.

    Args:
        page: The page.
        **options: Options of `gr.Blocks.launch`.

    Returns:
        What `launch` returns: the server's app, its address, and the public one.
    """
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.queue(max_size=MAX_WAITING)
    settings = {"max_file_size": MAX_FILE_SIZE, "theme": plain, "ssr_mode": False, "footer_links": []}
    return page.launch(**{**settings, **options})


def add_chat(desks: Mapping[str, Desk], model: gr.Dropdown) -> None:
    """Adds the tab for chats about any number of images, over any number of turns."""

    def answer(
        message: dict, history: list, name: str, system: str, max_new_tokens: int, temperature: float
    ) -> Iterator[tuple[str, str]]:
        try:
            messages = messages_of_page(history, message, SYSTEMS.get(system, system))
            for said in desks[name].chat(messages, max_new_tokens=int(max_new_tokens), temperature=temperature):
                yield said.text, said.cost
        except ValueError as error:
            yield f"{ERROR_MARK} {error}", ""

    rows = shipped_examples()
    # The chat places these itself, so they have `render=False`.
    options = [
        gr.Dropdown(
            list(SYSTEMS),
            value=next(iter(SYSTEMS)),
            label="system turn: choose one, or write your own text",
            allow_custom_value=True,
            elem_id="system",
            render=False,
        ),
        gr.Slider(1, 1024, value=256, step=1, label="longest answer, in tokens", render=False),
        gr.Slider(0, 1.5, value=0, step=0.1, label="temperature (0: the most likely answer)", render=False),
    ]
    cost = gr.Textbox(show_label=False, container=False, interactive=False, max_lines=3, elem_id="cost", render=False)
    question = gr.MultimodalTextbox(
        file_types=["image"],
        file_count="multiple",
        placeholder="Drop images here, then ask about them",
        show_label=False,
        elem_id="question",
        render=False,
    )
    gr.ChatInterface(
        answer,
        multimodal=True,
        textbox=question,
        chatbot=plain_chatbot(height=420, show_label=False, buttons=["copy"], elem_id="chat", render=False),
        additional_inputs_accordion=gr.Accordion("Options", open=False, render=False),
        additional_outputs=cost,
        additional_inputs=[model, *options],
        examples=[[{"text": row["question"], "files": [row["file"]]}] for row in rows[:3]],
        example_labels=[row["question"] for row in rows[:3]],
        cache_examples=False,
        api_name="chat",
    )
    cost.render()
    gr.Examples(
        [[{"text": text, "files": []}] for text in FURTHER_QUESTIONS],
        question,
        label="Then ask about the same image",
        example_labels=list(FURTHER_QUESTIONS),
        cache_examples=False,
        elem_id="further",
    )


def add_tiles(desks: Mapping[str, Desk], model: gr.Dropdown) -> None:
    """Adds the tab that shows how an image is cut and what it costs."""

    def cut(path: str | None, name: str) -> tuple[Any, ...]:
        if path is None:
            return None, [], ""
        loaded = desks[name].loaded
        try:
            view = view_cut(loaded.model.config, loaded.processor, open_upload(path))
        except ValueError as error:
            return None, [], f"{ERROR_MARK} {error}"
        return view.drawn, [(tile, name) for name, tile in view.tiles], view.summary

    gr.Markdown("How the model sees an image: cut into tiles, each of which becomes the same number of tokens.")
    with gr.Row():
        image = image_input("image", elem_id="tiles-image")
        drawn = gr.Image(label="on its grid", buttons=BUTTONS, interactive=False, format="png", elem_id="tiles-grid")
    cost = gr.Textbox(label="cost", interactive=False, elem_id="tiles-cost")
    tiles = gr.Gallery(
        label="tiles", buttons=BUTTONS, columns=5, interactive=False, format="png", object_fit="contain"
    )
    gr.on([image.change, model.change], cut, [image, model], [drawn, tiles, cost], api_name="tiles")
    add_image_examples(image)


def add_attention(desks: Mapping[str, Desk], model: gr.Dropdown) -> None:
    """Adds the tab that shows where an answer's attention lies."""

    def look(path: str | None, prompt: str, name: str) -> tuple[Any, ...]:
        if path is None or not prompt.strip():
            return None, f"{ERROR_MARK} Add an image and write a question first.", []
        from xgenmm_hf.explain.overlay import draw_overlay

        try:
            image = open_upload(path)
            found = desks[name].explain(image, prompt)
        except ValueError as error:
            return None, f"{ERROR_MARK} {error}", []
        rows = [[tile["name"], f"{tile['share']:.1%}"] for tile in found.as_record()["tiles"]]
        summary = f"{found.answer}\n\n{found.image_share:.1%} of the answer's attention goes to the image."
        return draw_overlay(image, found.pixels, found.addresses), summary, rows

    gr.Markdown(
        "Which parts of the image the answer was read from, by the model's attention. Attention says where a model "
        "looked, not why it answered so."
    )
    with gr.Row():
        image = image_input("image", elem_id="attention-image")
        overlay = gr.Image(
            label="attention", buttons=BUTTONS, interactive=False, format="png", elem_id="attention-overlay"
        )
    prompt = gr.Textbox("Describe this image.", label="question", elem_id="attention-question")
    go = gr.Button("Show attention", variant="primary", elem_id="attention-go")
    summary = gr.Textbox(label="answer", lines=3, interactive=False, elem_id="attention-answer")
    shares = gr.Dataframe(headers=["tile", "share of the attention"], interactive=False, type="array")
    gr.on([go.click, prompt.submit], look, [image, prompt, model], [overlay, summary, shares], api_name="attention")
    add_image_examples(image)


def add_few_shot(desk: Desk) -> None:
    """Adds the tab for prompts in the base models' form: examples, then an image to continue with."""

    def go_on(path: str | None, query: str, *shots: Any) -> Iterator[str]:
        given = [(shot, text) for shot, text in zip(shots[::2], shots[1::2], strict=True) if shot is not None]
        try:
            if path is None:
                raise ValueError("Add the image to continue with.")
            if any(not text.strip() for _, text in given):
                raise ValueError("Every example needs its text.")
            yield from desk.continue_shots(given, path, query)
        except ValueError as error:
            yield f"{ERROR_MARK} {error}"

    gr.Markdown(
        "Base models continue running text: each example is an image and its text, the last image is the one "
        "asked about. " + ("" if desk.is_base else NO_BASE)
    )
    gr.HTML(html.escape(desk.facts))
    rows = shipped_examples()
    inputs: list[Any] = []
    with gr.Row():
        for index in range(NUM_SHOTS):
            row = rows[index] if index < NUM_FILLED else {}
            with gr.Column(min_width=160):
                inputs.append(image_input(f"example {index + 1}", value=row.get("file"), height=160))
                inputs.append(gr.Textbox(row.get("caption", ""), label="its text", lines=2, max_lines=4))
    with gr.Row():
        image = image_input("image to continue with", value=rows[NUM_FILLED]["file"], height=200)
        with gr.Column():
            query = gr.Textbox(label="beginning of its text (may be empty)")
            go = gr.Button("Continue", variant="primary", elem_id="few-shot-go")
            text = gr.Textbox(label="continuation", lines=3, interactive=False, elem_id="few-shot-text")
    gr.on([go.click, query.submit], go_on, [image, query, *inputs], text, api_name="few_shot")


def image_input(label: str, value: str | None = None, **options: Any) -> gr.Image:
    """Returns a place for an image, which handlers get as a path, so that it is read as everywhere."""
    return gr.Image(
        value,
        label=label,
        type="filepath",
        image_mode=None,
        buttons=BUTTONS,
        sources=["upload", "clipboard"],
        **options,
    )


def add_image_examples(image: gr.Image) -> None:
    """Adds the shipped images below a place for one."""
    gr.Examples([[row["file"]] for row in shipped_examples()], image, cache_examples=False)


def shipped_examples() -> list[dict[str, Any]]:
    """Returns the images that ship with the package: `file`, `question`, `answer`, `caption`."""
    rows = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
    return [{**row, "file": str(IMAGES / row["image"])} for row in rows]
