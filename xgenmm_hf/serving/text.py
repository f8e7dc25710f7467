"""Turning generated ids into text that can be sent: whole characters, no stop text, no white space at either end."""

from collections.abc import Callable, Sequence


Decode = Callable[[list[int]], str]


class AnswerText:
    """The text of one answer as it grows; its pieces join to the answer without white space at either end."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()):
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._known = self._read = 0
        self._held = ""
        self._begun = False
        self.stopped = False

    def feed(self, token: int, read: bool = True) -> str:
        """Adds the next id and returns the text that can be sent; with `read` False it only stores the id."""
        self._ids.append(token)
        if not read:
            return ""
        self._held += self._decode_more()
        return self._release()

    def finish(self) -> str:
        """Returns the text that was still held back."""
        if self.stopped:
            return ""
        self._held += self._decode_more(last=True)
        rest = self._release()
        return rest + self._begin(self._held.rstrip()) if not self.stopped else rest

    def _decode_more(self, last: bool = False) -> str:
        """Decodes the new ids together with a few known ones, which decide whether a space comes between."""
        before = self._decode(self._ids[self._known : self._read])
        text = self._decode(self._ids[self._known :])
        # half a character decodes to the replacement character
        if not last and text.endswith("\ufffd"):
            return ""
        self._known, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _release(self) -> str:
        """Removes and returns the held text, except for a possible stop text or white space at its end."""
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.stopped = True
            return self._begin(self._held[: min(found)].rstrip())
        longest = max((len(stop) for stop in self._stops), default=1)
        sizes = range(min(longest - 1, len(self._held)), 0, -1)
        kept = next((n for n in sizes if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)
        ready = self._held[: len(self._held) - kept].rstrip()
        self._held = self._held[len(ready) :]
        return self._begin(ready)

    def _begin(self, text: str) -> str:
        """Drops white space before the answer."""
        if self._begun:
            return text
        text = text.lstrip()
        self._begun = bool(text)
        return text
