"""The progress of a run: documents a second, and the time that is left."""

import time
from collections.abc import Callable


class Progress:
    """Counts what is predicted and calls `show` with a line about it, at most every `every_s`.

    The time left assumes that bytes, as stored, take equally long everywhere.
    """

    def __init__(self, show: Callable[[str], None] = lambda line: None, every_s: float = 0.5):
        self._show, self._every_s = show, every_s
        self.documents = self.stored_bytes = self.total_bytes = 0
        self._started = self._shown = time.monotonic()

    def start(self, total_bytes: int) -> None:
        """Set what there is to do."""
        self.total_bytes, self._started = total_bytes, time.monotonic()

    def skip(self, stored_bytes: int) -> None:
        """Count what an earlier run has done as not to do."""
        self.total_bytes -= stored_bytes

    def add(self, documents: int, stored_bytes: int) -> None:
        """Count what has been done."""
        self.documents += documents
        self.stored_bytes += stored_bytes
        if time.monotonic() - self._shown > self._every_s:
            self._shown = time.monotonic()
            self._show(self.line(self._shown - self._started))

    def line(self, seconds: float) -> str:
        """Describe what was done in `seconds`.

        >>> progress = Progress()
        >>> progress.start(total_bytes=1000)
        >>> progress.add(30, 100)
        >>> progress.line(seconds=10.0)
        '30 documents, 3.0 documents/s, 10% done, 0:01:30 left'
        """
        rate = (
            f"{self.documents:,} documents, {self.documents / max(seconds, 1e-9):,.1f} documents/s"
        )
        if not 0 < self.stored_bytes <= self.total_bytes:
            return rate
        share = self.stored_bytes / self.total_bytes
        minutes, left_s = divmod(round(seconds / share - seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{rate}, {share:.0%} done, {hours}:{minutes:02}:{left_s:02} left"
