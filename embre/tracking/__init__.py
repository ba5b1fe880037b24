"""Tracking of runs: events on disk, metrics and models in MLflow. Only this uses mlflow."""

from embre.tracking.events import Tracker, read_events

__all__ = ["Tracker", "read_events"]
