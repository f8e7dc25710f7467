"""WebDataset shards: the files of one sample share a name; what they hold is one of the other formats.

An image with a `txt` file is a captioned image. A `json` file makes the sample a record of the format it has; the
sample's images then are its images. A MINT-1T sample has its document in `json` and its images as the frames of
one `tiff`.
"""

import io
from collections.abc import Iterator

from xgenmm_hf.data.adapters.base import Record, RejectedRecord, parse_json
from xgenmm_hf.data.image_refs import UnreadableImage, image_ref, reading
from xgenmm_hf.data.rows import ImageRef


IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "ppm")
FRAMES = ("tif", "tiff")


def sample_record(sample: Record) -> Record:
    """Turns a sample into a record of another format.

    Args:
        sample: `__key__` and the sample's files by extension, as bytes.

    Returns:
        The fields of its `json` file with its images in `images`, or `images` and `caption`.

    Raises:
        RejectedRecord: If it has neither a text nor a JSON file, or one that cannot be read.
    """
    key = sample["__key__"]
    images = sample_images(sample)
    if "json" in sample:
        fields = parse_json(sample["json"], f"{key}.json")
        if not isinstance(fields, dict):
            raise RejectedRecord("fields", f"{key}.json is no mapping")
        return _with_images({"id": key, **fields}, images, sample)
    for extension in ("txt", "caption"):
        if extension in sample:
            return {"id": key, "images": images, "caption": _text(sample, extension)}
    raise RejectedRecord("fields", f"the sample {key} has neither a txt nor a json file")


def sample_images(sample: Record) -> list[ImageRef]:
    """Returns references to the images of a sample, in the order of its files, frames of TIFF files one by one.

    Raises:
        RejectedRecord: If a TIFF file cannot be split.
    """
    refs = []
    for extension, data in sample.items():
        ending = extension.rsplit(".", 1)[-1]
        name = f"{sample['__key__']}.{extension}"
        if ending in IMAGES:
            refs.append(image_ref(name, data))
        elif ending in FRAMES:
            refs += [image_ref(f"{name}#{index}", frame) for index, frame in enumerate(split_frames(data, name))]
    return refs


def split_frames(data: bytes, name: str) -> Iterator[bytes]:
    """Yields the frames of a TIFF file as files of their own.

    Args:
        data: The file.
        name: What to call it.

    Yields:
        One PNG file a frame; a lone frame as it is.

    Raises:
        RejectedRecord: If the file is damaged or too large.
    """
    from PIL import Image

    try:
        with reading(name), Image.open(io.BytesIO(data)) as image:
            number = getattr(image, "n_frames", 1)
            if number == 1:
                yield data
                return
            for index in range(number):
                image.seek(index)
                frame = io.BytesIO()
                image.convert("RGB").save(frame, format="PNG", compress_level=1)
                yield frame.getvalue()
    except UnreadableImage as error:
        raise RejectedRecord("image", str(error)) from None


def _with_images(fields: Record, images: list[ImageRef], sample: Record) -> Record:
    """Gives a record the images of its sample."""
    if isinstance(fields.get("texts"), list) and isinstance(fields.get("images"), list):
        slots = [slot is not None for slot in fields["images"]]
        if sum(slots) != len(images):
            raise RejectedRecord("image", f"{len(images)} image(s) for {sum(slots)} place(s) of the document")
        remaining = iter(images)
        return {**fields, "images": [next(remaining) if slot else None for slot in slots]}
    if not images:
        return fields
    fields = {name: value for name, value in fields.items() if name not in ("image", "images")}
    is_chat = not {"conversations", "messages", "prompt"}.isdisjoint(fields)
    if "txt" in sample and fields.get("caption") is None and not is_chat:
        fields["caption"] = _text(sample, "txt")
    return {**fields, "images": images}


def _text(sample: Record, extension: str) -> str:
    """Returns the text of a sample's file."""
    try:
        return sample[extension].decode("utf-8")
    except UnicodeDecodeError:
        raise RejectedRecord("text", f"{sample['__key__']}.{extension} is not UTF-8") from None
