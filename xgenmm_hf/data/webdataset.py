"""WebDataset samples: the files that share a name become a record of one of the other formats.

A MINT-1T sample has its document in `json` and its images as the frames of one `tiff`; a sample of the Industry
Documents Library has one page per frame.
"""

import io
from collections.abc import Iterator

from xgenmm_hf.data.fields import Record, RejectedRecord, parse_json
from xgenmm_hf.data.image_refs import UnreadableImage, image_ref, png_bytes, reading
from xgenmm_hf.data.rows import ImageRef
from xgenmm_hf.modeling.images_xgenmm import image_errors, to_rgb


IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif", "heic")
FRAMES = ("tif", "tiff")
TEXTS = ("txt", "caption")


def sample_record(key: str, files: dict[str, bytes]) -> Record:
    """Turns a sample into a record of another format."""
    images = _images_of(key, files)
    text = next((extension for extension in TEXTS if extension in files), None)
    if "json" not in files:
        if text is None:
            raise RejectedRecord("fields", f"the sample {key} has neither a txt nor a json file")
        return {"id": key, "images": images, "caption": _decode(files[text], f"{key}.{text}")}
    fields = parse_json(files["json"], f"{key}.json")
    if not isinstance(fields, dict):
        raise RejectedRecord("fields", f"{key}.json is no mapping")
    fields = {"id": key, **fields}
    if isinstance(fields.get("texts"), list) and isinstance(fields.get("images"), list):
        slots = [slot is not None for slot in fields["images"]]
        if sum(slots) != len(images):
            raise RejectedRecord("image", f"{len(images)} image(s) for {sum(slots)} place(s) of the document")
        remaining = iter(images)
        return {**fields, "images": [next(remaining) if slot else None for slot in slots]}
    if not images:
        return fields
    fields.pop("image", None)
    is_chat = not {"conversations", "messages", "prompt"}.isdisjoint(fields)
    if text is not None and fields.get("caption") is None and not is_chat:
        fields["caption"] = _decode(files[text], f"{key}.{text}")
    return {**fields, "images": images}


def _images_of(key: str, files: dict[str, bytes]) -> list[ImageRef]:
    """Returns references to a sample's images in the order of its files, frames of TIFF files one by one."""
    refs = []
    for extension, data in files.items():
        ending, name = extension.rsplit(".", 1)[-1], f"{key}.{extension}"
        if ending in IMAGES:
            refs.append(image_ref(name, data))
        elif ending in FRAMES:
            refs += [image_ref(f"{name}#{index}", frame) for index, frame in enumerate(_split_frames(data, name))]
    return refs


def _split_frames(data: bytes, name: str) -> Iterator[bytes]:
    """Yields the frames of a TIFF file as PNG files; a lone frame as it is."""
    from PIL import Image, ImageSequence

    try:
        with reading(), image_errors(name), Image.open(io.BytesIO(data), formats=("TIFF", "PNG", "JPEG")) as image:
            if getattr(image, "n_frames", 1) == 1:
                yield data
                return
            for frame in ImageSequence.Iterator(image):
                yield png_bytes(to_rgb(frame, name))
    except UnreadableImage as error:
        raise RejectedRecord("image", str(error)) from None


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise RejectedRecord("text", f"{name} is not UTF-8") from None
