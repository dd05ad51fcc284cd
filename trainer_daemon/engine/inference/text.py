"""From tokens to text as they come: characters that are split over tokens, and strings that end a text."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence


class TextStream:
    """Turns tokens into text as they come: a character whose bytes are split over tokens waits for its last byte."""

    def __init__(self, decode_bytes: Callable[[int], bytes]) -> None:
        self._decode_bytes = decode_bytes
        # bytes that are no UTF-8 become U+FFFD: a young model writes many
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes, possibly none."""
        return self._decoder.decode(self._decode_bytes(token))

    def finish(self) -> str:
        """What is left: a replacement character if the last one never became whole."""
        return self._decoder.decode(b"", final=True)


class StopFinder:
    """Lets text through until a stop string; what may yet become one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What may be shown by now; all before the stop string once it was found."""
        if not self._stops:
            return text
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = max(_begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of the stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
