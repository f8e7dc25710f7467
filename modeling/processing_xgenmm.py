"""Images and prompts -> model inputs: every `<image>` becomes as many tokens as its image has.

Shapes: B prompts of L tokens; num_images images in num_tiles tiles, flat, in the order of the prompts.
"""

import re
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, MultiModalData, TextKwargs

from .chat_xgenmm import (
    ESCAPE_MARK,
    IMAGE_PLACEHOLDER_TOKEN,
    IMAGE_TOKEN,
    NO_CHAT_TEMPLATE,
    content_as_items,
    escape_messages,
)
from .compat_xgenmm import ImageTextProcessorMixin
from .images_xgenmm import flatten
from .remote_code_xgenmm import AUTO_MAP
from .targets_xgenmm import ModelInputs
from .tiling_xgenmm import count_image_tokens


TEXT_OPTIONS = frozenset(
    {*TextKwargs.__annotations__, "return_tensors", "return_text_replacement_offsets", "sanitize_control_tokens"}
)
IMAGE_OPTIONS = frozenset({*ImagesKwargs.__annotations__, "image_aspect_ratio", "crop_to_patches"}) - TEXT_OPTIONS
# an image in a prompt: the image token, and in the base models' form the placeholders after it
IMAGE = re.compile(f"{re.escape(IMAGE_TOKEN)}(?:{re.escape(IMAGE_PLACEHOLDER_TOKEN)})*")
TURN_TOKEN = re.compile(r"<\|(?:system|user|assistant|end)\|>")


class XGenMMProcessor(ImageTextProcessorMixin):
    """Prepares images and prompts for xGen-MM.

    Args:
        image_processor: An `XGenMMImageProcessor`.
        tokenizer: An `XGenMMTokenizer`.
        chat_template: Jinja template of chats; default: the tokenizer's. Instruct models have Phi-3 turns, in which an
            image renders `<image>` and a newline; base models have none.
        num_latents: Number of tokens per tile, or per image with fixed sampling.
        anyres_patch_sampling: Whether each tile is sampled separately.
        max_images_per_prompt: Maximum number of images per prompt; 1 for the first release.

    Raises:
        ValueError: If an option is out of range.

    Example:
        ```python
        >>> from PIL import Image
        >>> from xgenmm_hf import TINY_MODEL, XGenMMProcessor
        >>> processor = XGenMMProcessor.from_pretrained(TINY_MODEL)  # 16 tokens per tile, tiles of 64 x 64 pixels
        >>> inputs = processor(Image.new("RGB", (128, 64)), "<image>What is this?", return_tensors="pt")
        >>> inputs["pixel_values"].shape, (inputs["input_ids"] == processor.image_token_id).sum()
        (torch.Size([3, 3, 64, 64]), tensor(48))
        ```
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        num_latents: int = 128,
        anyres_patch_sampling: bool = True,
        max_images_per_prompt: int | None = None,
        **kwargs: Any,
    ):
        if type(num_latents) is not int or num_latents < 1:
            raise ValueError(f"num_latents is {num_latents!r}; it must be a positive number of tokens.")
        self.max_images_per_prompt = max_images_per_prompt
        self.num_latents = num_latents
        self.anyres_patch_sampling = anyres_patch_sampling
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        tokenizer.skip_control_tokens = True  # in decoded texts, also in those of the library's streamers
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepares model inputs.

        Args:
            images: An image, a list of images, or a list with each prompt's list of images; None in a list stands for
                no image. See `read_image` for what an image may be.
            text: A prompt or a list of prompts. `<image>` stands for an image, alone or followed by
                `<image placeholder>` tokens (the base models' form).
            videos: Not supported; only None or empty.
            audio: Not supported; only None or empty.
            **kwargs: Options of the tokenizer (`return_tensors`, `padding`, `padding_side`, `truncation`,
                `max_length`, ...) and of the image processor (`image_aspect_ratio`, `do_normalize`),
                `return_mm_token_type_ids`, and for serving engines `return_text_replacement_offsets`; also nested as
                `text_kwargs`, `images_kwargs`, `common_kwargs`.

        Returns:
            `input_ids` and `attention_mask` (B, L); with images also `pixel_values` (num_tiles, 3, S, S) and
            `image_sizes` (num_images, 2) as (height, width); `image_num_tiles` (num_images,) only by its key (see
            `ModelInputs`).

        Raises:
            TypeError: If an option is unknown.
            ValueError: If prompts and images do not fit each other, or truncation cuts an image's tokens.
        """
        if videos or audio:
            raise ValueError("xGen-MM reads images and text only; leave videos and audio out.")
        if text is None and images is None:
            raise ValueError("Nothing to prepare; pass text, images or both.")
        prompts = None if text is None else checked_prompts(text)
        text_options, image_options = split_options(kwargs)
        return_tensors = text_options.pop("return_tensors", None)
        data: dict[str, Any] = {}
        if flatten(images) or prompts is None:
            data.update(self.image_processor(images, return_tensors="np", **image_options))
        num_tiles = data.pop("image_num_tiles", None)
        if prompts is not None:
            lengths = [self._image_length(int(count)) for count in (() if num_tiles is None else num_tiles)]
            check_counts(prompts, images, len(lengths))
            check_most_images(prompts, self.max_images_per_prompt)
            data = {**self._encode(prompts, lengths, text_options), **data}
        replacements = data.pop("text_replacement_offsets", None)
        batch = ModelInputs(data, return_tensors, self.image_token_id, num_tiles)
        if replacements is not None:
            # Engines that ask for this process single images: they split tensors by tiles, and lists by images.
            sizes = ("image_sizes", "image_num_tiles")
            batch.update({name: list(batch[name]) for name in sizes if name in batch})
            batch["text_replacement_offsets"] = replacements
        return batch

    def _encode(self, prompts: list[str], lengths: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Expands the images in the prompts and tokenises them."""
        with_types = options.pop("return_mm_token_type_ids", False)
        # With offsets, 5.x asks for replacements to shift the offsets back to the prompt as it was passed. Our offsets
        # already count from there.
        with_replacements = options.pop("return_text_replacement_offsets", False)
        with_replacements = with_replacements and not options.get("return_offsets_mapping")
        remaining = iter(lengths)
        groups = [[next(remaining) for _ in IMAGE.finditer(prompt)] for prompt in prompts]
        alone = options.get("add_special_tokens") is False
        marks = [ESCAPE_MARK if alone and ends_a_turn(prompt) else "" for prompt in prompts]
        remaining = iter(lengths)
        expanded = [IMAGE.sub(lambda match: IMAGE_TOKEN * next(remaining), prompt) for prompt in prompts]
        encoding = dict(
            self.tokenizer([mark + prompt for mark, prompt in zip(marks, expanded, strict=True)], **options)
        )
        if "offset_mapping" in encoding:
            samples = encoding.get("overflow_to_sample_mapping", range(len(prompts)))
            encoding["offset_mapping"] = [
                offsets_in_prompt(prompts[sample], groups[sample], offsets, len(marks[sample]))
                for sample, offsets in zip(samples, encoding["offset_mapping"], strict=True)
            ]
        found = sum(list(row).count(self.image_token_id) for row in encoding["input_ids"])
        if found != sum(lengths):
            raise ValueError(
                f"Image features and image tokens do not match: the images take {sum(lengths)} tokens, the prompts "
                f"hold {found} after truncation to max_length={options.get('max_length')}; raise max_length, pass "
                "fewer images, or use smaller ones."
            )
        if with_replacements:
            encoding["text_replacement_offsets"] = [
                replacements_in(prompt, group) for prompt, group in zip(prompts, groups, strict=True)
            ]
        if with_types:
            encoding["mm_token_type_ids"] = [
                [int(token == self.image_token_id) for token in row] for row in encoding["input_ids"]
            ]
        return encoding

    def apply_chat_template(
        self, conversation: Any, chat_template: str | None = None, *, escape_special_tokens: bool = True, **kwargs: Any
    ) -> Any:
        """Renders chats, and with `tokenize=True, return_dict=True` prepares them and their images.

        Args:
            conversation: Messages, or a list of them: `{"role", "content"}`, the content a string or items
                `{"type": "text", "text"}`, `{"type": "image", "image" | "path" | "url" | "base64"}` and
                `{"type": "image_url", "image_url": {"url"}}`.
            chat_template: Template of this call; default: the processor's.
            escape_special_tokens: Whether control tokens written inside contents stay plain text.
            **kwargs: As in `ProcessorMixin.apply_chat_template`.

        Returns:
            The prompt, or the model inputs.

        Raises:
            ValueError: If the model is a base model, which has no chat template, or the conversation is invalid.
        """
        if chat_template is None and self.chat_template is None:
            raise ValueError(NO_CHAT_TEMPLATE)
        conversation = content_as_items(conversation)
        if escape_special_tokens:
            conversation = escape_messages(conversation, self.tokenizer)
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> list[str]:
        """Saves the processor, with `preprocessor_config.json`: 5.x would leave it out, but older code reads it."""
        self.image_processor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, **kwargs)

    def _image_length(self, num_tiles: int) -> int:
        return count_image_tokens(num_tiles, self.num_latents, self.anyres_patch_sampling)

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Counts tokens and tiles (`num_image_patches`) of images by (height, width); serving engines call this."""
        if image_sizes is None:
            return MultiModalData()
        _, options = split_options(kwargs)
        tiles = [self.image_processor.get_number_of_image_patches(*size, options) for size in image_sizes]
        return MultiModalData(
            num_image_tokens=[self._image_length(num_tiles) for num_tiles in tiles], num_image_patches=tiles
        )


def ends_a_turn(text: str) -> bool:
    """Tells whether a text is the end of a turn: TRL's collators cut an answer from its prompt and tokenise it alone.

    With `add_special_tokens=False` no space is put before such a text, so it has the same ids as after its prompt.
    """
    first = TURN_TOKEN.search(text)
    return first is not None and first[0] == "<|end|>"


def replacements_in(prompt: str, lengths: list[int]) -> list[dict[str, Any]]:
    """Returns the replacement of each image in a prompt; serving engines make the same in their own prompts."""
    entries, grown = [], 0
    for match, length in zip(IMAGE.finditer(prompt), lengths, strict=True):
        start, replacement = match.start() + grown, IMAGE_TOKEN * length
        new_span = (start, start + len(replacement))
        entries.append({"type": "image", "replacement": replacement, "span": match.span(), "new_span": new_span})
        grown += len(replacement) - len(match[0])
    return entries


def offsets_in_prompt(prompt: str, lengths: list[int], offsets: Any, mark: int) -> list[tuple[int, int]]:
    """Converts (start, end) offsets to offsets in the prompt before its images were expanded to `lengths` tokens.

    `mark` characters were put before the prompt. Image tokens get (0, 0), as padding does, so that an assistant mask
    never includes them.
    """
    start = 0
    origins: list[np.ndarray] = []  # position in the original prompt of each character of the expanded one
    for match, length in zip(IMAGE.finditer(prompt), lengths, strict=True):
        origins += [np.arange(start, match.start()), np.full(length * len(IMAGE_TOKEN), -1)]
        start = match.end()
    origin = np.concatenate([*origins, np.arange(start, len(prompt) + 1)])
    starts, ends = (np.array(offsets, dtype=np.int64).reshape(-1, 2) - mark).clip(0).T
    # a text token before an image ends where the image begins
    spans = np.stack([origin[starts], origin[starts] + ends - starts], axis=1) * (origin[starts] >= 0)[:, None]
    return [(start, end) for start, end in spans.tolist()]


def split_options(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the options of a call into the tokenizer's and the image processor's."""
    kwargs = dict(kwargs)
    common, text, image = (dict(kwargs.pop(f"{name}_kwargs", None) or {}) for name in ("common", "text", "images"))
    for name, value in kwargs.items():
        if name in TEXT_OPTIONS:
            text[name] = value
        elif name in IMAGE_OPTIONS:
            image[name] = value
        elif name not in ("videos_kwargs", "audio_kwargs"):
            raise TypeError(
                f"XGenMMProcessor got an unexpected option {name!r}; it takes the tokenizer's options, "
                "image_aspect_ratio and do_normalize."
            )
    image.pop("return_tensors", None)
    return {**common, **text}, image


def checked_prompts(text: Any) -> list[str]:
    """Returns one prompt or several as a list, or raises a ValueError if they are not prompts."""
    prompts = [text] if isinstance(text, str) else text
    first = prompts[0] if isinstance(prompts, (list, tuple)) and prompts else prompts
    if hasattr(first, "size"):
        raise ValueError(f"text is a {type(first).__name__}; call processor(images=..., text=...).")
    if not isinstance(prompts, (list, tuple)) or not prompts:
        shown = "an empty list" if isinstance(text, (list, tuple)) else f"a {type(text).__name__}"
        raise ValueError(f"text is {shown}; pass a string or a list of strings.")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"text[{index}] is a {type(prompt).__name__}; pass a string or a list of strings.")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text[{index}] holds half a character (a lone surrogate) at position {error.start}; decode the text "
                'with errors="replace" where it was read.'
            ) from None
    return list(prompts)


def check_counts(prompts: list[str], images: Any, num_images: int) -> None:
    """Checks that prompts and images fit each other."""
    found = [len(IMAGE.findall(prompt)) for prompt in prompts]
    if sum(found) != num_images:
        raise ValueError(
            f"The text holds {sum(found)} {IMAGE_TOKEN} for {num_images} images; "
            f"write one {IMAGE_TOKEN} for each image."
        )
    nested = isinstance(images, (list, tuple)) and len(images) == len(prompts) > 1
    if nested and all(group is None or isinstance(group, (list, tuple)) for group in images):
        for index, (count, number) in enumerate(zip(found, (len(flatten(group)) for group in images), strict=True)):
            if count != number:
                raise ValueError(f"text[{index}] holds {count} {IMAGE_TOKEN} for {number} images in images[{index}].")


def check_most_images(prompts: list[str], most: int | None) -> None:
    """Raises a ValueError if a prompt holds more images than the checkpoint reads."""
    for index, prompt in enumerate(prompts):
        found = len(IMAGE.findall(prompt))
        if most is not None and found > most:
            raise ValueError(f"text[{index}] holds {found} images; this checkpoint reads at most {most} per prompt.")
