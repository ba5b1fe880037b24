"""What an encoder knows of hidden mentions that counting does not: all are asked the same ones.

    validation split ─ask─▶ Asked, training split ─count─▶ TrainCounts; both ─▶ Comparison

All are told the true type and order the concepts of that type.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embre.config import ConfigError, DataConfig, MaskingConfig, PretrainConfig, load_config
from embre.model.encoder_folder import PretrainedEncoder
from embre.model.identifier_scores import GROUPS, frequency_bounds, score_sums
from embre.probe.co_occurrence import TrainCounts, count
from embre.probe.hidden_mentions import Asked, ask
from embre.provenance import CONFIG, read_lineage
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary
from embre.shards.shard_set import ShardSet
from embre.stream.source import StreamSource

SYSTEMS = ("encoder", "frequency", "co-occurrence")
DEFAULT_SEED = 13
NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ranks` (K,) that each of SYSTEMS gives the true concepts of the mentions that were `asked`,
    and `said` (K,) the row of the concept that co-occurrence puts first. `masking_of` says whose
    masking it was; `own_shards` is false where the encoder was trained on another shard set."""

    source: StreamSource
    masking_of: str
    own_shards: bool
    asked: Asked
    num_train_documents: int
    ranks: dict[str, np.ndarray]
    said: np.ndarray

    def examples(self) -> list[int]:
        """A few mentions that the encoder identifies and co-occurrence does not, each of another
        concept; the first ones of the split."""
        encoder, counting = self.ranks[SYSTEMS[0]], self.ranks[SYSTEMS[2]]
        found = np.flatnonzero((encoder == 1) & (counting > 1))
        _, first = np.unique(self.asked.rows[found], return_index=True)
        in_order = found[first][np.lexsort((found[first], self.asked.docs[found[first]]))]
        return in_order[:NUM_EXAMPLES].tolist()

    def scores(self, entities: EntityVocabulary) -> dict[str, dict[str, dict[str, float]]]:
        """Of each system and group of mentions (`identifier_scores`) top-1 and MRR."""
        bounds, found = frequency_bounds(entities), {}
        for system, ranks in self.ranks.items():
            sums = score_sums(self.asked.types, self.asked.ids, ranks, bounds)
            found[system] = {
                group: {
                    "mentions": int(number),
                    "top1": sums[f"top1/{group}"] / number,
                    "mrr": sums[f"mrr/{group}"] / number,
                }
                for group in GROUPS
                if (number := sums[f"count/{group}"])
            }
        return found


def source_for(
    encoder: PretrainedEncoder, shards: str, num_strips: int | None, config: PretrainConfig | None
) -> StreamSource:
    """The validation split of a shard set with the mentions hidden that the run of the encoder
    hides there, all of them behind [MASK], but nothing else hidden. Without the config of the run
    its defaults hold. Raises Refused where the set has no validation split.
    """
    shard_set = ShardSet.open(shards)
    if not shard_set.shards("validation"):
        raise Refused(
            f"{shards}: no validation split; shard again with a larger --validation-share"
        )
    data = config.data if config else DataConfig(shards=shards)
    masking = config.masking if config else MaskingConfig()
    changes: dict[str, Any] = {
        "shards": shards,
        "streams": 1,
        "max_document_tokens": min(data.max_document_tokens, encoder.max_tokens),
        "validation_strips": num_strips or data.validation_strips,
        "on_bad_shard": "fail",
    }
    only_mentions = {"objective": "entity", "replace_share": 0.0, "keep_share": 0.0}
    return StreamSource.build(
        shard_set,
        data.model_copy(update=changes),
        masking.model_copy(update=only_mentions),
        encoder.entities,
        encoder.tokenizer,
        config.seed if config else DEFAULT_SEED,
    )


def run_config(folder: Path) -> PretrainConfig | None:
    """The config of the run that an encoder's folder lies in."""
    path = folder.absolute().parent / CONFIG
    if not path.is_file():
        return None
    try:
        config = load_config(PretrainConfig, path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; it is of another version: copy {folder} out of its run, and the defaults "
            "of a run hold"
        ) from error
    return config if config.name == read_lineage(folder).get("run") else None


def probe_shards(
    encoder: PretrainedEncoder,
    shards: str,
    num_strips: int | None,
    progress: Callable[[], None] = lambda: None,
) -> Comparison:
    """Ask the encoder and the counts for the same hidden mentions of a validation split.

    `progress` is told of each strip that was asked about and each shard that was counted.
    """
    config = run_config(encoder.folder)
    source = source_for(encoder, shards, num_strips, config)
    asked = ask(encoder, source, progress)
    counts = count(source, np.unique(np.concatenate(asked.visible)), progress)
    by_frequency, naive_bayes_scores, said = by_counting(asked, counts, encoder.entities)
    return Comparison(
        source=source,
        masking_of=f"run {config.name}" if config else "the defaults of a run",
        own_shards=read_lineage(encoder.folder).get("shard_set")
        == source.shard_set.manifest.digest,
        asked=asked,
        num_train_documents=counts.num_documents,
        ranks=dict(zip(SYSTEMS, (asked.ranks, by_frequency, naive_bayes_scores), strict=True)),
        said=said,
    )


def by_counting(
    asked: Asked, counts: TrainCounts, entities: EntityVocabulary
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) the ranks of the true concepts by frequency, those by co_occurring, and the row of the
    concept that is first by co_occurring."""
    frequency, co_occurring, said = (np.zeros(len(asked.rows), dtype=np.int64) for _ in range(3))
    all_hashes = entities.table["hash"].to_numpy()
    # The mentions of one type in one document are answered by the same scores.
    groups, places = np.unique(np.stack([asked.docs, asked.types]), axis=1, return_inverse=True)
    for number, (doc, kind) in enumerate(groups.T.tolist()):
        first = int(entities.firsts[kind])
        rows = slice(first, first + entities.sizes[kind])
        hashes = all_hashes[rows]
        frequent = counts.by_frequency(rows)
        beside = counts.naive_bayes_scores(rows, asked.visible[doc].tolist())
        members = np.flatnonzero(places == number)
        said[members] = first + first_of(beside, hashes)
        for member in members.tolist():
            frequency[member] = rank_of(int(asked.ids[member]), frequent, hashes)
            co_occurring[member] = rank_of(int(asked.ids[member]), beside, hashes)
    return frequency, co_occurring, said


def rank_of(true: int, scores: np.ndarray, hashes: np.ndarray) -> int:
    """The rank of one of several concepts by their scores; equal ones in the order of their hashes,
    which know nothing of how frequent or how right they are."""
    equal = (scores == scores[true]) & (hashes < hashes[true])
    return 1 + int(np.count_nonzero(scores > scores[true]) + np.count_nonzero(equal))


def first_of(scores: np.ndarray, hashes: np.ndarray) -> int:
    """The concept whose rank is 1."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[np.argmin(hashes[best])])
