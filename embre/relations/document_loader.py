"""The data loader of fine-tuning: this rank's micro-batches of each step, in random order."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from embre.config import CorpusConfig
from embre.document import Document
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.relations.pair_batch import PairBatch
from embre.relations.pass_builder import PassBuilder
from embre.relations.passes import Pass
from embre.tally import Tally
from embre.world import World


class DocumentLoader:
    """The micro-batches of this rank: of W ranks, micro-batch i of a step goes to rank i mod W.

    All ranks get the same number per step, for which some may be empty. The order of passes depends
    only on (seed, epoch), so the micro-batches are the same for any number of ranks. Passes are
    built once and kept in memory. `extra_corpora` are documents of other corpora, each with its own
    schema; all passes are shuffled together, each once per epoch.

    Raises Refused if there are more ranks than micro-batches, or no document or pair to train on.
    """

    def __init__(
        self,
        docs: Sequence[Document],
        builder: PassBuilder,
        data: CorpusConfig,
        seed: int,
        world: World,
        tally: Tally,
        extra_corpora: Sequence[tuple[Sequence[Document], RelationSchema]] = (),
    ):
        refuse_idle_ranks(world.size, data.micro_batches)
        if not docs:
            raise Refused(f"{data.train}: no documents to train on; set data.train")
        self.builder = builder
        self.passes_per_micro_batch = data.passes_per_micro_batch
        self.micro_batches = data.micro_batches
        self.per_rank = -(-data.micro_batches // world.size)
        self.seed = seed
        self.world = world
        self._passes = [found for doc in docs for found in builder.passes(doc, tally)]
        for others, schema in extra_corpora:
            other = replace(builder, schema=schema)
            self._passes += [found for doc in others for found in other.passes(doc, tally)]
        if not self._passes:
            raise Refused(
                f"{data.train}: no document has a candidate pair of {builder.schema.name}"
            )
        self._next_step = 0

    def step(self) -> list[PairBatch]:
        """This rank's micro-batches of the next step."""
        slots = range(self.world.rank, self.micro_batches, self.world.size)
        found = [self._micro_batch(self._next_step, slot) for slot in slots]
        missing = self.per_rank - len(found)
        self._next_step += 1
        return found + [self.builder.collate([], slot=-1)] * missing

    def state(self) -> dict[str, Any]:
        """The loader state: the number of steps returned."""
        return {"step": self._next_step}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the step at which this state was taken."""
        self._next_step = int(state["step"])

    def _micro_batch(self, step: int, slot: int) -> PairBatch:
        first = (step * self.micro_batches + slot) * self.passes_per_micro_batch
        positions = range(first, first + self.passes_per_micro_batch)
        return self.builder.collate([self._pass_at(position) for position in positions], slot)

    def _pass_at(self, position: int) -> Pass:
        """The pass at a position in the endless sequence of epochs."""
        epoch, within = divmod(position, len(self._passes))
        return self._passes[epoch_order(self.seed, epoch, len(self._passes))[within]]


def refuse_idle_ranks(ranks: int, micro_batches: int) -> None:
    """Raise Refused if some ranks would get only empty micro-batches."""
    if ranks > micro_batches:
        raise Refused(
            f"{ranks} ranks for {micro_batches} micro-batches a step, so {ranks - micro_batches} "
            "would do nothing: raise data.micro_batches (with fewer data.passes_per_micro_batch "
            "the step stays as large), or lower launch.workers or the ranks of torchrun"
        )


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_passes: int) -> list[int]:
    """The order in which an epoch reads the passes."""
    order = list(range(num_passes))
    random.Random(f"{seed}/documents/{epoch}").shuffle(order)
    return order
