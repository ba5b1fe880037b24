"""The protocol of loaders of micro-batches."""

from typing import Any, Protocol


class Loader(Protocol):
    """An iterator over the micro-batches of a rank, `per_rank` in each step, with a saved state."""

    per_rank: int

    def step(self) -> list[Any]:
        """Return this rank's micro-batches of the next step."""
        ...

    def state(self) -> dict[str, Any]:
        """The JSON state after the last returned step; a checkpoint merges those of all ranks."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the step at which this merged state was taken."""
        ...
