"""Validates a pretraining run on a fixed part of the validation split."""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from embre import watchdog
from embre.engines.engine import Engine
from embre.model.identifier_scores import NAMES, frequency_bounds, score_sums, scores
from embre.model.pretraining_model import LOSSES
from embre.stream.batch import Batch, empty_batch
from embre.stream.order import validation_batches
from embre.stream.source import StreamSource
from embre.world import World


class ValidationSet:
    """A rank's part of the validation batches.

    All hidden tokens become [MASK], because a kept token shows its target.
    """

    def __init__(self, source: StreamSource, world: World):
        hidden = {"replace_share": 0.0, "keep_share": 0.0}
        source = source.with_masking(source.settings.masking.model_copy(update=hidden))
        batches = list(validation_batches(source))
        self.world = world
        self._mine: list[Batch] = batches[world.rank :: world.size]
        # The same number of forward passes on every rank: under ZeRO-3 each is a collective.
        missing = -(-len(batches) // world.size) - len(self._mine)
        self._mine += [empty_batch(source.settings)] * missing
        self._bounds = frequency_bounds(source.settings.entities)

    @torch.no_grad()
    def validate(self, engine: Engine) -> dict[str, float]:
        """Mean losses and accuracies of the current weights; empty if the split is. Collective."""
        if not self._mine:
            return {}
        model = engine.module.eval()
        sums: Counter[str] = Counter()
        for batch in self._mine:
            sums.update(_measure(model(batch.to(self.world.device)), batch, self._bounds))
            watchdog.report_progress()
        named = [f"{kind}/{name}" for kind in ("n", "loss", "right") for name in LOSSES]
        named += NAMES
        summed = self.world.all_reduce([sums[name] for name in named])
        totals = dict(zip(named, summed, strict=True))
        present = [name for name in LOSSES if totals[f"n/{name}"]]
        losses = {f"loss/{name}": totals[f"loss/{name}"] / totals[f"n/{name}"] for name in present}
        accuracies = {
            f"accuracy/{name}": totals[f"right/{name}"] / totals[f"n/{name}"]
            for name in present
            if name != "identifier"
        }
        return losses | accuracies | scores(totals)


def _measure(found: dict[str, Tensor], batch: Batch, bounds: np.ndarray) -> dict[str, float]:
    """The sums that a micro-batch adds to a validation."""
    ranks = found["rank/identifier"].cpu().numpy()
    types, ids = (part[: len(ranks)].numpy() for part in (batch.mention_types, batch.mention_ids))
    sums = score_sums(types, ids, ranks, bounds)
    for name, count in batch.counts.items():
        sums[f"n/{name}"] = float(count)
        sums[f"loss/{name}"] = float(found[name])
    for name in ("token", "type"):
        sums[f"right/{name}"] = float(found[f"right/{name}"].sum())
    return sums
