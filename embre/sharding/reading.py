"""Read inputs into parts: the chunks that one call of `encode_part` encodes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import msgspec

from embre.atomic_files import write_atomic
from embre.corpora import read_chunks
from embre.corpora.raw import Chunk
from embre.corpora.sources import Watch
from embre.sharding.inputs import Input
from embre.sharding.tasks import Progress
from embre.sharding.work_folder import InputRecord, WorkFolder
from embre.tally import Tally

PARTS_OF_SMALL_INPUTS = 64
MIN_PART_BYTES, MAX_PART_BYTES = 1 << 20, 32 << 20  # of plain input


class Part(NamedTuple):
    """Consecutive chunks of one input."""

    name: str
    chunks: list[Chunk]


def part_size(inputs: Sequence[Input]) -> int:
    """Bytes of plain input per part: small enough that all workers have parts to encode."""
    total = sum(source.bytes for source in inputs)
    return min(max(total // PARTS_OF_SMALL_INPUTS, MIN_PART_BYTES), MAX_PART_BYTES)


def parts_to_encode(
    inputs: Sequence[Input],
    work: WorkFolder,
    run: str,
    part_bytes: int,
    progress: Callable[[Progress], None],
) -> Iterator[tuple[WorkFolder, str, str, list[Chunk]]]:
    """Yield the arguments of the calls of `encode_part` that remain to be made.

    Writes the record of each input that was read to its end.
    """
    progress(Progress(stored_bytes_in_all=sum(source.bytes for source in inputs)))
    for source in inputs:
        if work.is_done(source.key):
            progress(Progress(stored_bytes=source.bytes))
            continue
        tally, watch, num_parts, num_reported = Tally(), Watch(), 0, 0
        for part in read_parts(source, part_bytes, tally, watch):
            num_parts += 1
            progress(Progress(stored_bytes=watch.num_bytes - num_reported))
            num_reported = watch.num_bytes
            if not work.part_record(part.name).exists():
                yield work, run, part.name, part.chunks
        progress(Progress(stored_bytes=watch.num_bytes - num_reported))
        stored = {"name": source.name, "bytes": source.bytes, "sha256": watch.sha256.hexdigest()}
        record = InputRecord(num_parts, stored, dict(tally.counts), tally.examples)
        write_atomic(work.input_record(source.key), msgspec.json.encode(record))


def read_parts(source: Input, part_bytes: int, tally: Tally, watch: Watch) -> Iterator[Part]:
    """Cut an input into parts of at least `part_bytes`; the cuts depend on nothing else."""
    chunks: list[Chunk] = []
    names = (WorkFolder.part_name(source.key, n) for n in count())
    for chunk in read_chunks(source.source, tally, watch):
        chunks.append(chunk)
        if sum(len(chunk.data) for chunk in chunks) >= part_bytes:
            yield Part(next(names), chunks)
            chunks = []
    if chunks:
        yield Part(next(names), chunks)
