"""How a run comes to its ranks: the driver of a job, launchers, and workers of other work."""
