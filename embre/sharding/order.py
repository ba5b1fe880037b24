"""The order of a shard set: the rows of parts that make up each split and each shard."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from embre.end_to_end import starts_of, within
from embre.held_out import HoldOutList
from embre.sharding.parts import INDEX, read_index
from embre.sharding.selection import choose
from embre.sharding.work_folder import WorkFolder
from embre.tally import Tally

SPLITS = ("train", "validation")


class Rows(NamedTuple):
    """The documents of a split, in order: index of the part, row in it, number of tokens."""

    parts: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray


def choose_rows(
    work: WorkFolder, names: list[str], held: list[HoldOutList], tally: Tally
) -> tuple[dict[str, Rows], dict[str, int]]:
    """Choose the documents of each split; return them and the number held out by each list."""
    sizes = np.array([work.read_part_record(name).documents for name in names], dtype=np.int64)
    begins = starts_of(sizes)
    index = np.empty(begins[-1], dtype=INDEX)
    for name, begin, end in zip(names, begins[:-1], begins[1:], strict=True):
        if begin < end:  # a part without documents has no file
            index[begin:end] = read_index(work.part(name))
    parts = np.repeat(np.arange(len(names), dtype=np.uint32), sizes)
    rows = within(sizes).astype(np.uint32)
    num_held = Counter({one.name: 0 for one in held})
    prints = [set(one.prints) for one in held]
    for name in names:
        # A list of bare ids has no fingerprints; those of its documents in the inputs are used to
        # find copies under other ids.
        for number, *found in work.read_part_record(name).held:
            num_held[held[number].name] += 1
            prints[number].update(value for value in found if value)
    chosen, dropped, num_found = choose(index, prints)
    tally.add(dropped, {})
    for one, number in zip(held, num_found, strict=True):
        num_held[one.name] += number
    validation = index["validation"][chosen]
    order = {}
    for split, of_split in zip(SPLITS, (chosen[~validation], chosen[validation]), strict=True):
        order[split] = Rows(parts[of_split], rows[of_split], index["tokens"][of_split])
    return order, dict(num_held)


def cut_into_shards(
    split: str, num_documents: int, shard_documents: int, block_documents: int
) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each shard of a split, and its first and last (exclusive) document."""
    blocks = max(1, shard_documents // block_documents)
    size = blocks * block_documents
    for number, first in enumerate(range(0, num_documents, size)):
        yield f"{split}-{number:06d}", first, min(first + size, num_documents)
