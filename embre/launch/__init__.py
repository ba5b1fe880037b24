"""Launching: the driver of a job, launchers of its ranks, and workers for other commands."""
