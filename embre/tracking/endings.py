"""Why an attempt at a run ended: a rank that fails leaves a note, and the next start reads them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

from embre.interrupts import TakenOver
from embre.world import World

NOTE = "error-{}.txt"  # of a rank, in the run's folder
MAX_ERROR_CHARS = 300  # characters of an error
# Of gloo, which has no error of its own, and of NCCL.
LOST_PEER = re.compile("DistBackendError|RuntimeError: .*(gloo|NCCL|peer|[Cc]onnection)")
MAX_NAMED = 4  # silent ranks


@contextmanager
def ending_noted(folder: Path, world: World) -> Iterator[None]:
    """What the body raises is noted. A rank that is killed leaves nothing; nor does one that was
    taken over, for the run goes on without it."""
    try:
        yield
    except TakenOver:
        raise
    except Exception as error:
        # Without its process group a rank raises anything: Ray takes that away before a restart.
        if world.size == 1 or dist.is_initialized():
            with suppress(OSError):  # a full disk may be what it failed of
                leave_note(folder, world.rank, f"{type(error).__name__}: {error}")
        raise


def leave_note(folder: Path, rank: int, text: str) -> None:
    """Say what a rank ended of; OSError where that cannot be written."""
    (folder / NOTE.format(rank)).write_text(text[:MAX_ERROR_CHARS])


def why_ended(folder: Path, num_ranks: int) -> str:
    """What ended an attempt of so many ranks, as far as they say. Their notes are taken away.

    The first error counts: others follow from it. Where it is that of a lost peer, the one that
    was killed is among those that left none.
    """
    notes = sorted(folder.glob(NOTE.format("*")), key=lambda note: note.stat().st_mtime_ns)
    told = {note.name: " ".join(note.read_text(errors="replace").split()) for note in notes}
    for note in notes:
        note.unlink()
    if not told:
        return "no rank left an error, so one was killed or its machine lost"
    name, error = next(iter(told.items()))
    first = f"rank {name.removeprefix('error-').removesuffix('.txt')}: {error}"
    silent = [rank for rank in range(num_ranks) if NOTE.format(rank) not in told]
    if not silent or not LOST_PEER.match(error):
        return first
    named = ", ".join(map(str, silent[:MAX_NAMED])) + (", …" if len(silent) > MAX_NAMED else "")
    return f"rank {named} ended without an error; {first}"
