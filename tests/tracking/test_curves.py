"""The curves of a run are drawn from its events, restarts and all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from embre.engines.engine import StepResult
from embre.entity_types import ENTITY_TYPES
from embre.model.identifier_scores import FREQUENCIES
from embre.tracking import Tracker, curves
from embre.tracking.curves import ACCURACIES, LOSSES, draw_curves
from embre.world import World


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Axes]]:
    """The axes of each picture that is drawn."""
    found: dict[str, list[Axes]] = {}

    def watch(name: str) -> None:
        draw = getattr(curves, name)

        @contextmanager
        def watched(path: Path, *shape: Any) -> Iterator[Any]:
            with draw(path, *shape) as axes:
                found[path.name] = axes if isinstance(axes, list) else [axes]
                yield axes

        monkeypatch.setattr(curves, name, watched)

    for name in ("axes_of", "panels_of"):
        watch(name)
    return found


def lines(axes: Axes) -> dict[str, list[list[float]]]:
    """The points of each line by its label."""
    return {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def run(folder: Path, scores: dict[str, float]) -> None:
    """Four steps that were restarted after the second, measured after the second and the last."""
    losses = [name for name in ("token", "type", "identifier") if f"accuracy/{name}" in scores]
    tracker = Tracker(folder, World(), 1)
    for first, last in ((0, 2), (2, 4)):
        tracker.started(first, 4)
        for step in range(first + 1, last + 1):
            values = {name: 4.0 / step for name in losses}
            tracker.step(step, StepResult(values, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
        measured = {f"loss/{name}": 5.0 / last for name in losses}
        tracker.validation(last, measured | {name: v * last for name, v in scores.items()})


def test_there_is_no_picture_without_a_point(tmp_path: Path) -> None:
    Tracker(tmp_path, World(), 1).started(0, 4)
    assert draw_curves(tmp_path) == []


def test_losses_are_lines_and_their_validation_dots(
    tmp_path: Path, seen: dict[str, list[Axes]]
) -> None:
    run(tmp_path, {"accuracy/token": 0.1, "accuracy/type": 0.2})
    path, _ = draw_curves(tmp_path)
    assert path.name == LOSSES and path.read_bytes().startswith(b"\x89PNG")
    (axes,) = seen[LOSSES]
    found = lines(axes)
    assert found.pop("restart") == [[2, 0], [2, 1]]
    for name in ("token", "type"):
        assert found.pop(name) == [[step, 4 / step] for step in range(1, 5)]
    assert list(found.values()) == [[[2, 2.5], [4, 1.25]]] * 2


def test_accuracies_have_a_panel_for_each_objective_score_and_group(
    tmp_path: Path, seen: dict[str, list[Axes]]
) -> None:
    ends = ["", *(f"/{name}" for name in (*ENTITY_TYPES, *FREQUENCIES) if name != "CellLine")]
    names = [f"{kind}/identifier{end}" for kind in ("accuracy", "mrr") for end in ends]
    names += ["accuracy/token", "accuracy/type"]
    scores = {name: (number + 1) / 100 for number, name in enumerate(names)}
    run(tmp_path, scores)
    _, path = draw_curves(tmp_path)
    assert path.name == ACCURACIES and path.read_bytes().startswith(b"\x89PNG")

    def curve(name: str) -> list[list[float]]:
        return [[step, scores[name] * step] for step in (2, 4)]

    panels = {axes.get_title("left"): lines(axes) for axes in seen[ACCURACIES]}
    assert all(panel.pop("restart") for panel in panels.values())
    groups = {
        "identifiers by type": [name for name in ENTITY_TYPES if name != "CellLine"],
        "identifiers by frequency": list(FREQUENCIES),
    }
    assert panels == {
        "tokens and types: accuracy": {n: curve(f"accuracy/{n}") for n in ("token", "type")},
        "identifiers: top-1 and MRR": {
            "top-1": curve("accuracy/identifier"),
            "MRR": curve("mrr/identifier"),
        },
        **{
            f"{title}: {label}": {
                **{name: curve(f"{kind}/identifier/{name}") for name in members},
                "all": curve(f"{kind}/identifier"),
            }
            for title, members in groups.items()
            for label, kind in (("top-1", "accuracy"), ("MRR", "mrr"))
        },
    }
    for axes in seen[ACCURACIES]:
        curves_seen = [points for name, points in lines(axes).items() if name != "restart"]
        bottom, top = axes.get_ylim()
        assert bottom == 0 and top > max(y for points in curves_seen for _, y in points)
    legends = [axes.get_legend() for axes in seen[ACCURACIES]]
    told = [[text.get_text() for text in legend.get_texts()] for legend in legends if legend]
    assert told == [
        ["token", "type", "top-1", "MRR", "restart"],
        [*groups["identifiers by type"], "all", "restart"],
        [*FREQUENCIES, "all", "restart"],
    ]


def test_a_run_of_tokens_alone_has_its_accuracy_too(
    tmp_path: Path, seen: dict[str, list[Axes]]
) -> None:
    run(tmp_path, {"accuracy/token": 0.1})
    assert [path.name for path in draw_curves(tmp_path)] == [LOSSES, ACCURACIES]
    (axes,) = seen[ACCURACIES]
    assert [*lines(axes)] == ["token", "restart"]
