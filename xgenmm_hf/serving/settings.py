"""What a server allows: every limit in one place, checked when it is made."""

from dataclasses import dataclass, fields
from pathlib import Path


MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Limits and permissions of a server; docs/serving.md says what happens beyond each."""

    name: str
    api_key: str | None = None
    max_batch: int = 16
    max_batch_tokens: int = 65536  # padding and room for answers included; one request is always taken
    kept_mib: int = 1024  # image tokens kept for images that are sent again
    max_waiting: int = 64
    max_new_tokens: int = 4096
    default_new_tokens: int = 512  # for requests that set no limit
    max_images: int = 16
    max_pixels: int = 100_000_000  # of a request's images together
    max_body_mib: int = 32  # also of one fetched image
    max_body_seconds: float = 30.0  # for a request's headers, and again for its body
    max_seconds: float = 120.0  # waiting included
    grace_seconds: float = 30.0
    image_root: Path | None = None  # folder of `file://` addresses
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
