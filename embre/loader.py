"""What gives a rank its data: micro-batches of pretraining or of fine-tuning."""

from typing import Any, Protocol


class Loader(Protocol):
    """Gives a rank its micro-batches, `per_rank` in each step, and says where it stands after the
    last step given."""

    per_rank: int

    def step(self) -> list[Any]:
        """This rank's micro-batches of the next step."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the step given last ends, as JSON; the ranks' states merge into one."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the step that gave this merged state."""
        ...
