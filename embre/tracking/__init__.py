"""Tracking of runs: events on disk, metrics and models in MLflow. The only door to mlflow."""

from embre.tracking.events import Tracker, read_events

__all__ = ["Tracker", "read_events"]
