"""Each node that begins to drain makes the run save once."""

import time
from pathlib import Path

import pytest

from embre.interrupts import SAVE
from embre.launch import draining
from embre.launch.draining import save_when_draining


def test_each_node_that_drains_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[set[str] | None] = [set(), {"a"}, {"a"}, None, {"a", "b"}, {"b"}, set()]

    def told() -> set[str]:
        found = looks.pop(0) if looks else set()
        if found is None:
            raise ConnectionError("the head does not answer")
        return found

    monkeypatch.setattr(draining, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(draining, "draining_nodes", told)
    with save_when_draining(tmp_path):
        deadline = time.monotonic() + 10
        while looks and time.monotonic() < deadline:
            time.sleep(0.005)
    assert not looks and len((tmp_path / SAVE).read_bytes()) == 2
