"""Why an attempt ended: a failing rank writes its error to a file, which the next start reads, and
its traceback to another, which stays."""

import os
import re
import socket
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

from embre.config.secret_values import redact
from embre.interrupts import Interrupted, TakenOver
from embre.world import World

NOTE = "error-{}.txt"  # in the run folder; {} is the rank
MAX_ERROR_CHARS = 300
# Errors of gloo, which has no exception class of its own, and of NCCL.
LOST_PEER = re.compile("DistBackendError|RuntimeError: .*(gloo|NCCL|peer|[Cc]onnection)")
# What gloo puts around its errors: the place in its source, and general advice.
GLOO_BOILERPLATE = re.compile(r"\[\S*/gloo/\S*\] | This is typically caused by a remote [^;]*")
MAX_NAMED = 4  # ranks without a note, or tracebacks, that a message lists
FAILURES = "failures"  # in the run folder: tracebacks
TRACEBACK = re.compile(r"attempt-((\d+)(?:\.(\d+))?)-rank-\d+\.txt")  # start, its attempt, nth
MAX_TRACEBACK_CHARS = 65_536


@contextmanager
def ending_noted(folder: Path, world: World, start: str) -> Iterator[None]:
    """Write the exception that the block raises to the rank's note, its traceback to a file that
    the note names, and raise it again. `start` is the name of this start of the ranks.

    No note is left by a killed rank, nor on TakenOver: then another process continues the run.
    """
    try:
        yield
    except TakenOver:
        raise
    except Exception as error:
        # Ray destroys the process group before a restart; what a rank raises after that is noise.
        if world.size == 1 or dist.is_initialized():
            text, see = redact(f"{type(error).__name__}: {error}", os.environ), ""
            with suppress(OSError):  # the error may be a full disk
                if not isinstance(error, Interrupted):
                    see = f"; see {_write_traceback(folder, world.rank, start, error)}"
            with suppress(OSError):
                leave_note(folder, world.rank, text, see)
        raise


def _write_traceback(folder: Path, rank: int, start: str, error: Exception) -> str:
    """Write the traceback of a rank without secrets, the middle left out if it is very long.

    Returns the path of the file in the run folder.
    """
    name = f"{FAILURES}/attempt-{start}-rank-{rank}.txt"
    text = redact("".join(traceback.format_exception(error)), os.environ)
    if len(text) > MAX_TRACEBACK_CHARS:
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"
    (folder / FAILURES).mkdir(exist_ok=True)
    text = f"on {socket.gethostname()}\n{text}"
    (folder / name).write_text(text, errors="backslashreplace")
    return name


def name_of_start(folder: Path, attempt: int) -> str:
    """The name in tracebacks of a start of the ranks that begins now: `attempt`, the number that
    its `started` event will get; N.2, N.3, … if earlier starts failed before this event of N."""
    failed = [
        int(match[3] or 1)
        for path in (folder / FAILURES).glob("*")
        if (match := TRACEBACK.fullmatch(path.name)) and int(match[2]) == attempt
    ]
    return f"{attempt}.{max(failed) + 1}" if failed else str(attempt)


def tracebacks(folder: Path, known: Collection[Path] = ()) -> list[Path]:
    """The tracebacks of the last start that left some beside those `known`, oldest first: the
    errors of other ranks often follow from the first one."""
    starts: dict[str, list[Path]] = {}
    for path in (folder / FAILURES).glob("*"):
        if path not in known and (match := TRACEBACK.fullmatch(path.name)):
            starts.setdefault(match[1], []).append(path)
    # The last by time: a run that begins again with another config has low numbers again.
    found = (sorted(paths, key=_modified) for paths in starts.values())
    return max(found, key=lambda paths: _modified(paths[-1]), default=[])


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def leave_note(folder: Path, rank: int, text: str, see: str = "") -> None:
    """Write the error of a rank, cut to MAX_ERROR_CHARS, and where more is to be seen to its note.

    Raises OSError if it cannot be written.
    """
    note = text[:MAX_ERROR_CHARS] + see
    (folder / NOTE.format(rank)).write_text(note, errors="backslashreplace")


def why_ended(folder: Path, num_ranks: int) -> str:
    """Describe why an attempt with `num_ranks` ranks ended, from their notes, and delete the notes.

    The earliest error is reported, as the others follow from it. If it is a lost connection, the
    ranks without a note are listed too: the killed one is among them.
    """
    notes = sorted(folder.glob(NOTE.format("*")), key=_modified)
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
    return f"rank {named} ended without an error; {GLOO_BOILERPLATE.sub('', first)}"
