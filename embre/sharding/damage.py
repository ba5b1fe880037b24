"""Inputs of which a part is missing: the set is made of the rest, and says so."""

from collections.abc import Iterable

from embre.sharding.inputs import Input, place_by_name
from embre.sharding.parts import PartRecord
from embre.sharding.work_folder import InputRecord, WorkFolder
from embre.tally import Tally

# Reasons that mean: the rest of this file was not read.
NOT_TO_THE_END = (
    *("file/broken_archive", "file/bomb", "file/cut_off", "document/cut_off"),
    *("file/unknown_encoding", "file/declares_entities"),
)
UNREADABLE = ("document/unreadable", "document/too_large")
MAX_UNREADABLE = 0.01  # of the documents of an input; a few broken ones are in every dump


def damage_of(source: InputRecord, parts: Iterable[PartRecord], inputs: list[Input]) -> str:
    """What is missing of an input that was read, for people; empty where it is whole enough."""
    tally, num_read = Tally(), 0
    tally.add(source.dropped, source.examples)
    for part in parts:
        tally.add(part.dropped, part.examples)
        num_read += part.documents_read
    found = [
        f"{place_by_name(tally.examples[reason][0], inputs)} ({reason}, {tally.counts[reason]:,})"
        for reason in NOT_TO_THE_END
        if tally.counts[reason]
    ]
    num_lost = sum(tally.counts[reason] for reason in UNREADABLE)
    if num_lost > MAX_UNREADABLE * (num_read + num_lost):
        found.append(f"{num_lost:,} of {num_read + num_lost:,} documents cannot be read")
    return "; ".join(found)


def sources_of(work: WorkFolder, inputs: list[Input]) -> list[dict[str, int | str]]:
    """What the manifest says of each input; `damaged` only where something is missing."""
    sources = []
    for number in range(len(inputs)):
        record = work.read_input_record(number)
        names = (work.part_name(number, n) for n in range(record.parts))
        why = damage_of(record, map(work.read_part_record, names), inputs)
        sources.append(record.source | ({"damaged": why} if why else {}))
    return sources


def damaged(sources: Iterable[dict[str, int | str]]) -> list[str]:
    """A line for each source of a manifest of which something is missing."""
    return [f"{one['name']}: {one['damaged']}" for one in sources if "damaged" in one]
