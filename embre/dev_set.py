"""The dev set of a fine-tuning run: its predictions and their scores."""

from dataclasses import dataclass, replace

import numpy as np

from embre.document import Document, Relation
from embre.engines.engine import Engine
from embre.evaluation.bootstrap import document_counts
from embre.evaluation.scoring import Score, floor, learnt_metrics, score
from embre.relations.calibration import cross_fitted, fit_decision
from embre.relations.decode import score_pairs
from embre.relations.model import RelationModel
from embre.relations.model_folder import LoadedModel
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import Decision, ScoredPairs, interleaved
from embre.tally import Tally
from embre.world import World


@dataclass(frozen=True, slots=True)
class DevSet:
    """The documents on which a run is scored, and in `training` those on which it is trained."""

    docs: list[Document]
    training: list[Document]
    builder: PassBuilder
    world: World

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the trained tasks; thresholds are fitted for the last, the strictest."""
        return learnt_metrics(self.builder.schema, self.builder.config.tasks)

    def loaded(self, engine: Engine, decision: Decision) -> LoadedModel:
        """The current model with `decision`."""
        model = engine.module
        assert isinstance(model, RelationModel)
        return LoadedModel(model, self.builder, decision)

    def scored(self, engine: Engine, tally: Tally) -> ScoredPairs:
        """Score all candidate pairs with the current weights.

        A collective: each rank scores its part, every rank returns all pairs. Dropped items of all
        ranks are added to `tally`.
        """
        mine, lost = self.docs[self.world.rank :: self.world.size], Tally()
        pairs = score_pairs(self.loaded(engine, Decision()), mine, lost)
        shares, tallies = zip(*self.world.all_gather((pairs, lost)), strict=True)
        for one in tallies:
            tally.add(one.counts, one.examples)
        return interleaved(shares)

    def fitted(self, engine: Engine, scored: ScoredPairs) -> LoadedModel:
        """The current model, with the decision fitted to all documents."""
        return self.loaded(engine, fit_decision(scored, self.builder.schema, self.metrics[-1]))

    def predicted(self, scored: ScoredPairs, metric: str) -> tuple[list[Document], ScoredPairs]:
        """All documents with their predicted relations, and the calibrated pairs.

        Cross-fitted: the decisions for `metric` were fitted to other documents.
        """
        relations, calibrated = cross_fitted(scored, self.builder.schema, metric)
        docs = [replace(doc, relations=r) for doc, r in zip(self.docs, relations, strict=True)]
        return docs, calibrated

    def score(self, predicted: list[Document]) -> dict[str, Score]:
        """Scores of the trained metrics under the official counting."""
        scores = score(self.docs, predicted)
        return {metric: scores[metric] for metric in self.metrics}

    def counts(self, scored: ScoredPairs) -> dict[str, np.ndarray]:
        """(D, 3) counts per document by metric, with thresholds fitted for that metric.

        For comparing runs with different tasks: thresholds fitted for `all` favour novelty at the
        expense of `pair_type`.
        """
        return {
            metric: document_counts(self.docs, self.predicted(scored, metric)[0])[metric]
            for metric in self.metrics
        }

    def floor(self) -> dict[str, Score]:
        """The scores of the trivial system (`scoring.floor`)."""
        return self.score(floor(self.docs, self.builder.schema))

    @property
    def gold(self) -> list[Document]:
        """The gold documents reduced to the trained tasks, to judge single predictions.

        Without novelty if only relations are trained; with the first legal type of each pair if
        only novelty is, as such a model predicts.
        """
        schema, tasks = self.builder.schema, self.builder.config.tasks

        def as_learnt(relation: Relation) -> Relation:
            if tasks == "relation":
                return replace(relation, novel=None)
            if tasks == "novelty":
                return replace(relation, type=schema.first_legal(*relation.pair) or relation.type)
            return relation

        return [
            replace(doc, relations=tuple(dict.fromkeys(map(as_learnt, doc.relations))))
            for doc in self.docs
        ]

    def validate(self, engine: Engine) -> dict[str, float]:
        """F1 of the trained metrics under the official counting. A collective."""
        predicted, _ = self.predicted(self.scored(engine, Tally()), self.metrics[-1])
        scores = self.score(predicted)
        return {f"f1/{metric}": one.f1 for metric, one in scores.items()}
