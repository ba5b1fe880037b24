"""Damaged inputs, of which a part is missing: they stop the run unless they are accepted."""

from collections.abc import Iterable

from embre.sharding.inputs import Input, place_by_name
from embre.sharding.parts import PartRecord
from embre.sharding.work_folder import InputRecord, WorkFolder
from embre.tally import Tally

# Reasons for which the rest of a file was not read.
NOT_TO_THE_END = (
    *("file/broken_archive", "file/bomb", "file/cut_off", "document/cut_off"),
    *("file/unknown_encoding", "file/declares_entities"),
)
UNREADABLE = ("document/unreadable", "document/too_large")
MAX_UNREADABLE = 0.01  # fraction of an input's documents; every dump has a few broken ones


class DamagedInputs(RuntimeError):
    """Inputs that could not be read to their end. The parts of the others are kept."""


def damage_of(source: InputRecord, parts: Iterable[PartRecord], inputs: list[Input]) -> str:
    """Describe what is missing of an input; empty if nothing or too little to matter."""
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
    """The `sources` of the manifest, one for each input; `damaged` only if something is missing."""
    sources = []
    for one in inputs:
        record = work.read_input_record(one.key)
        parts = map(work.read_part_record, work.part_names(one.key))
        why = damage_of(record, parts, inputs)
        sources.append(record.source | ({"damaged": why} if why else {}))
    return sources


def refuse_damaged(work: WorkFolder, inputs: list[Input]) -> None:
    """Raise DamagedInputs if a part of an input is missing."""
    if missing := damaged(sources_of(work, inputs)):
        raise DamagedInputs(
            f"{'; '.join(missing)}. Fetch these files again and run the same command, which reads "
            "only them; or shard what could be read with --accept-damaged"
        )


def damaged(sources: Iterable[dict[str, int | str]]) -> list[str]:
    """One line for each damaged source of a manifest."""
    return [f"{one['name']}: {one['damaged']}" for one in sources if "damaged" in one]
