"""The lease on a run's checkpoints: only the attempt that took it last may commit."""

from dataclasses import dataclass
from pathlib import Path

from embre.atomic_files import write_atomic
from embre.interrupts import TakenOver

LEASE = "lease"


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease on the checkpoints in `folder`, held under the name `holder` of one attempt."""

    folder: Path
    holder: str

    def take(self) -> None:
        """Take the lease from whoever holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / LEASE, self.holder.encode())

    def overtaken(self, path: Path) -> TakenOver | None:
        """An error that names `path` if another attempt holds the lease, else None."""
        if (self.folder / LEASE).read_text() == self.holder:
            return None
        return TakenOver(f"{path}: another attempt at this run has taken over")
