"""Waiting that takes no time."""

import pytest

from embre import object_store


class Clock:
    """Time that passes only while somebody sleeps: that of whoever waits for a store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        monkeypatch.setattr(object_store, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
