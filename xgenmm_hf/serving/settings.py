"""What a server allows: every limit in one place, checked when it is made."""

from dataclasses import dataclass, fields
from pathlib import Path


MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Limits and permissions of a server.

    Attributes:
        name: What clients call the model.
        api_key: Key that every request must bear, except for ``/health``; None: no key.
        max_batch: Requests that are computed together.
        max_batch_tokens: Tokens of context held for them together, padding and room for answers included. One request
            is always taken, whatever it needs.
        kept_mib: MiB of images' tokens that are kept for when they are sent again, as in every turn of a chat.
        max_waiting: Requests that may wait beyond those; more are told to come back (429).
        max_new_tokens: Longest answer that a request may ask for, in tokens.
        default_new_tokens: Longest answer where a request does not say.
        max_images: Images in one request.
        max_pixels: Pixels (width x height) of a request's images together. One image alone may have no more than
            `PIL.Image.MAX_IMAGE_PIXELS` besides.
        max_body_mib: Size of one request's body, and of one fetched image, in MiB.
        max_body_seconds: Time for a connection to send a request's headers, and again for its body.
        max_seconds: Time for one request, waiting included.
        grace_seconds: Time that running requests get when the server is told to stop.
        image_root: Folder whose files ``file://`` addresses may name; None: no files.
        allow_remote: Whether images may be fetched from public http(s) addresses.
    """

    name: str
    api_key: str | None = None
    max_batch: int = 16
    max_batch_tokens: int = 65536
    kept_mib: int = 1024
    max_waiting: int = 64
    max_new_tokens: int = 4096
    default_new_tokens: int = 512
    max_images: int = 16
    max_pixels: int = 100_000_000
    max_body_mib: int = 32
    max_body_seconds: float = 30.0
    max_seconds: float = 120.0
    grace_seconds: float = 30.0
    image_root: Path | None = None
    allow_remote: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("max_waiting", "max_images", "grace_seconds", "kept_mib") else 1
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{field.name} is {value}; it must be {least} or more.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ValueError("The API key must be one or more printable ASCII characters.")
        if self.image_root is not None and not self.image_root.is_dir():
            raise ValueError(f"image_root is {self.image_root}; it must be a folder that exists.")

    @property
    def max_bytes(self) -> int:
        """Size of one request's body in bytes."""
        return self.max_body_mib * MIB

    @property
    def max_held_bytes(self) -> int:
        """Bytes of all bodies together that are still being received; one body is always taken."""
        return 8 * self.max_bytes
