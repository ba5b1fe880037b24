"""What a run tells: events on disk, metrics and models in MLflow. The one door to mlflow."""

from embre.tracking.events import Tracker, read_events

__all__ = ["Tracker", "read_events"]
