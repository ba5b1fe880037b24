"""The documents that a fine-tuning run is scored on: what is predicted for them, and how good."""

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
    """The documents a run is scored on, with the relations that are scored, and those that it
    learns from."""

    docs: list[Document]
    training: list[Document]
    builder: PassBuilder
    world: World

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that are learnt, the last the strictest: for that one the run decides."""
        return learnt_metrics(self.builder.schema, self.builder.config.tasks)

    def loaded(self, engine: Engine, decision: Decision) -> LoadedModel:
        """The model as it is now."""
        model = engine.module
        assert isinstance(model, RelationModel)
        return LoadedModel(model, self.builder, decision)

    def scored(self, engine: Engine, tally: Tally) -> ScoredPairs:
        """All their pairs by the weights as they are, on every rank; each reads its share. `tally`
        is told of what all of them could not read."""
        mine, lost = self.docs[self.world.rank :: self.world.size], Tally()
        found = score_pairs(self.loaded(engine, Decision()), mine, lost)
        shares, losses = zip(*self.world.all_gather((found, lost)), strict=True)
        for one in losses:
            tally.add(one.counts, one.examples)
        return interleaved(shares)

    def fitted(self, engine: Engine, scored: ScoredPairs) -> LoadedModel:
        """The model as it is now, with the decision that suits all of them."""
        return self.loaded(engine, fit_decision(scored, self.builder.schema, self.metrics[-1]))

    def predicted(self, scored: ScoredPairs, metric: str) -> tuple[list[Document], ScoredPairs]:
        """All of them with the relations of decisions that were fitted to other documents, for a
        metric, and the pairs calibrated alike."""
        found, calibrated = cross_fitted(scored, self.builder.schema, metric)
        docs = [replace(doc, relations=r) for doc, r in zip(self.docs, found, strict=True)]
        return docs, calibrated

    def score(self, predicted: list[Document]) -> dict[str, Score]:
        """Under the official counting, by the metrics that are learnt."""
        found = score(self.docs, predicted)
        return {metric: found[metric] for metric in self.metrics}

    def counts(self, scored: ScoredPairs) -> dict[str, np.ndarray]:
        """Of each metric the counts (D, 3) of documents by thresholds that were fitted for it. What
        runs that have not learnt the same are compared by: thresholds for `all` cost `pair_type`
        what they win for novelty."""
        return {
            metric: document_counts(self.docs, self.predicted(scored, metric)[0])[metric]
            for metric in self.metrics
        }

    def floor(self) -> dict[str, Score]:
        """The scores of the trivial system."""
        return self.score(floor(self.docs, self.builder.schema))

    @property
    def gold(self) -> list[Document]:
        """What predictions are judged by, one by one: without the novelty that a model of relations
        alone never states, and with the type that one of novelty alone gives to a pair, or each of
        its relations would be wrong."""
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
        """The F1 that are learnt, under the official counting."""
        predicted, _ = self.predicted(self.scored(engine, Tally()), self.metrics[-1])
        scores = self.score(predicted)
        return {f"f1/{name}": found.f1 for name, found in scores.items()}
