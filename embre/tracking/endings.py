"""Why an attempt ended: a failing rank writes its error to a file, which the next start reads."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

from embre.interrupts import TakenOver
from embre.world import World

NOTE = "error-{}.txt"  # in the run folder; {} is the rank
MAX_ERROR_CHARS = 300
# Errors of gloo, which has no exception class of its own, and of NCCL.
LOST_PEER = re.compile("DistBackendError|RuntimeError: .*(gloo|NCCL|peer|[Cc]onnection)")
MAX_NAMED = 4  # ranks without a note that a message lists


@contextmanager
def ending_noted(folder: Path, world: World) -> Iterator[None]:
    """Write the exception that the block raises to the rank's note, and raise it again.

    No note is left by a killed rank, nor on TakenOver: then another process continues the run.
    """
    try:
        yield
    except TakenOver:
        raise
    except Exception as error:
        # Ray destroys the process group before a restart; what a rank raises after that is noise.
        if world.size == 1 or dist.is_initialized():
            with suppress(OSError):  # the error may be a full disk
                leave_note(folder, world.rank, f"{type(error).__name__}: {error}")
        raise


def leave_note(folder: Path, rank: int, text: str) -> None:
    """Write the error of a rank to its note. Raises OSError if it cannot be written."""
    (folder / NOTE.format(rank)).write_text(text[:MAX_ERROR_CHARS])


def why_ended(folder: Path, num_ranks: int) -> str:
    """Describe why an attempt with `num_ranks` ranks ended, from their notes, and delete the notes.

    The earliest error is reported, as the others follow from it. If it is a lost connection, the
    ranks without a note are listed too: the killed one is among them.
    """
    notes = sorted(folder.glob(NOTE.format("*")), key=lambda note: note.stat().st_mtime_ns)
    errors = {note.name: " ".join(note.read_text(errors="replace").split()) for note in notes}
    for note in notes:
        note.unlink()
    if not errors:
        return "no rank left an error, so one was killed or its machine lost"
    name, error = next(iter(errors.items()))
    first = f"rank {name.removeprefix('error-').removesuffix('.txt')}: {error}"
    silent = [rank for rank in range(num_ranks) if NOTE.format(rank) not in errors]
    if not silent or not LOST_PEER.match(error):
        return first
    named = ", ".join(map(str, silent[:MAX_NAMED])) + (", …" if len(silent) > MAX_NAMED else "")
    return f"rank {named} ended without an error; {first}"
