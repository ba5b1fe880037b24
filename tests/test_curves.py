"""The curves of a run are drawn from its events, restarts and all."""

from pathlib import Path

from embre.curves import ACCURACIES, LOSSES, draw_curves
from embre.engine import StepResult
from embre.tracking import Tracker
from embre.world import World


def test_curves_are_pictures_once_there_are_points(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, World(), 1)
    tracker.started(0, 4)
    assert draw_curves(tmp_path) == []
    for step in (1, 2):
        losses = {"token": 3.0 / step, "type": 1.0}
        tracker.step(step, StepResult(losses, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    tracker.validation(2, {"loss/token": 2.5, "accuracy/token": 0.1})
    tracker.started(1, 4)
    (path,) = draw_curves(tmp_path)
    assert path.name == LOSSES and path.read_bytes().startswith(b"\x89PNG")
    tracker.validation(3, {"accuracy/identifier": 0.2, "accuracy/identifier/Gene": 0.1})
    _, path = draw_curves(tmp_path)
    assert path.name == ACCURACIES and path.read_bytes().startswith(b"\x89PNG")
