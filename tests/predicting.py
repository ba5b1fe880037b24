"""Predict inputs by name, as the command does."""

from pathlib import Path
from typing import Any

from embre.prediction.predict import Predicted, plan, predict_files


def predict_inputs(
    model: Path, inputs: list[str], out: Path, title: str, *more: Any, **named: Any
) -> Predicted:
    return predict_files(model, plan(inputs, out), out, title, *more, **named)
