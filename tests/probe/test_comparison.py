"""The encoder and the count baselines rank the same hidden mentions."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from embre.config import ConfigError, MaskingConfig
from embre.model.encoder_folder import PretrainedEncoder, load_pretrained
from embre.probe.co_occurrence import concept_rows, owners
from embre.probe.comparison import (
    SYSTEMS,
    Comparison,
    first_of,
    probe_shards,
    rank_of,
    run_config,
    source_for,
)
from embre.probe.hidden_mentions import rank_hidden_mentions
from embre.shards.entities import choose_entities
from embre.shards.shard_set import ShardSet
from embre.stream.order import validation_strips
from embre.validation_set import ValidationSet
from embre.world import World
from tests.cli.test_app import call
from tests.probes import export
from tests.shard_sets import SMALL, source_of, write_shards
from tests.tiny import document


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    settings = replace(SMALL, validation_share=0.3)
    return write_shards(tmp_path_factory.mktemp("set"), 60, settings)


@pytest.fixture(scope="module")
def run(shard_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its config and an untrained encoder."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Path(shard_set.url) / "tokenizer"
    entities = choose_entities(shard_set, min_count=2, max_per_type=1000)
    lineage = {"run": "small", "shard_set": shard_set.manifest.digest}
    export(folder / "encoder", tokenizer, entities, lineage=lineage)
    values = {
        "name": "small",
        "seed": 5,
        "encoder": {"path": str(tokenizer)},
        "data": {"shards": "elsewhere", "strip_tokens": 256, "max_document_tokens": 100},
        "masking": {"entity_rate": 0.4, "objective": "entity_token"},
        "train": {"steps": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def encoder(run: Path) -> PretrainedEncoder:
    return load_pretrained(run / "encoder", torch.device("cpu"))


@pytest.fixture(scope="module")
def found(encoder: PretrainedEncoder, shard_set: ShardSet) -> Comparison:
    return probe_shards(encoder, shard_set.url, 4)


def test_the_encoder_is_scored_as_the_run_scores_it(
    encoder: PretrainedEncoder, found: Comparison
) -> None:
    engine = SimpleNamespace(module=encoder.model)
    wanted = ValidationSet(found.source, World()).validate(engine)  # type: ignore[arg-type]
    scores = found.scores(encoder.entities)["encoder"]
    named = {}
    for group, values in scores.items():
        end = "" if group == "all" else f"/{group}"
        named[f"accuracy/identifier{end}"] = values["top1"]
        named[f"mrr/identifier{end}"] = values["mrr"]
    wanted = {key: wanted[key] for key in wanted if "/identifier" in key and "loss" not in key}
    assert named == pytest.approx(wanted, rel=1e-12)
    assert scores["all"]["mentions"] == len(found.mentions.rows) > 40


def test_the_probe_hides_the_mentions_that_the_run_hides(
    encoder: PretrainedEncoder, shard_set: ShardSet, found: Comparison
) -> None:
    source = found.source
    assert (source.seed, source.settings.masking.entity_rate) == (5, 0.4)
    assert (source.data.shards, source.data.strip_tokens) == (shard_set.url, 256)
    assert (source.settings.masking.objective, source.settings.masking.keep_share) == ("entity", 0)
    assert found.masking_of == "run small" and found.own_shards
    as_trained = MaskingConfig(entity_rate=0.4)
    same = rank_hidden_mentions(encoder, source.with_masking(as_trained))
    assert np.array_equal(same.rows, found.mentions.rows)
    assert (
        np.array_equal(same.docs, found.mentions.docs) and same.surfaces == found.mentions.surfaces
    )


def test_visible_are_the_other_concepts_of_the_document(found: Comparison) -> None:
    source, mentions, number = found.source, found.mentions, 0
    for members, _ in validation_strips(source):
        rows, owner = concept_rows(source.settings.entities, members.mentions), owners(members)
        for doc in range(len(members)):
            known = {*rows[(owner == doc) & (rows >= 0)].tolist()}
            hidden = {*mentions.rows[mentions.docs == number].tolist()}
            assert hidden <= known and mentions.doc_ids[number] == members.doc_ids[doc]
            assert {*mentions.visible[number].tolist()} == known - hidden
            number += 1
    assert number == len(mentions.doc_ids) == len(mentions.visible)


def test_a_mention_covered_by_a_hidden_one_is_not_visible(tmp_path: Path) -> None:
    """A mention of two concepts of which one is hidden: the other cannot be seen either."""
    texts = ["<melanoma|Disease|D1,D2> and <braf|Gene|1>", "<mice|Species|10090>"] * 20
    docs = [document(f"{text} {n}", doc_id=str(n)) for n, text in enumerate(texts)]
    shard_set = write_shards(tmp_path, docs, replace(SMALL, validation_share=0.5))
    source = source_of(shard_set, MaskingConfig(entity_rate=0.5, objective="entity"), streams=1)
    export(tmp_path / "encoder", Path(shard_set.url) / "tokenizer", source.settings.entities)
    encoder = load_pretrained(tmp_path / "encoder", torch.device("cpu"))
    mentions = rank_hidden_mentions(encoder, source)
    row = {
        source.settings.entities.row(n)["identifier"]: n
        for n in range(sum(source.settings.entities.sizes))
    }
    seen = Counter()
    for doc, visible in enumerate(mentions.visible):
        hidden = {*mentions.rows[mentions.docs == doc].tolist()}
        if hidden & {row["D1"], row["D2"]}:
            assert not {row["D1"], row["D2"]} & {*visible.tolist()}
            seen[len(hidden & {row["D1"], row["D2"]})] += 1
    assert seen[1] and seen[2]


def test_the_counts_rank_by_the_training_split(found: Comparison) -> None:
    """The most frequent concept of a type is first by frequency in every document."""
    shards = found.source.shard_set.shards("train")
    mentions = Counter()
    for block in (block for shard in shards for block in found.source.shard_set.load(shard)):
        rows = concept_rows(found.source.settings.entities, block.mentions)
        mentions.update(rows[rows >= 0].tolist())
    for kind in np.unique(found.mentions.types).tolist():
        of_type = found.mentions.types == kind
        first = int(found.source.settings.entities.firsts[kind])
        size = found.source.settings.entities.sizes[kind]
        most = max(mentions[first + n] for n in range(size))
        for row, rank in zip(
            found.mentions.rows[of_type].tolist(),
            found.ranks["frequency"][of_type].tolist(),
            strict=True,
        ):
            above = sum(mentions[first + n] > mentions[row] for n in range(size))
            equal = sum(mentions[first + n] == mentions[row] for n in range(size))
            assert above < rank <= above + equal
            assert rank > 1 or mentions[row] == most
    predicted_right = found.predicted == found.mentions.rows
    assert np.array_equal(predicted_right, found.ranks["co-occurrence"] == 1)


def test_ties_are_broken_by_hash() -> None:
    scores, hashes = np.array([1.0, 2.0, 1.0, 2.0, 1.0]), np.array([9, 7, 5, 8, 1], dtype=np.uint64)
    assert [rank_of(n, scores, hashes) for n in range(5)] == [5, 1, 4, 2, 3]
    assert first_of(scores, hashes) == 1


def test_examples_are_identified_by_the_encoder_only() -> None:
    ranks = {
        "encoder": np.array([1, 1, 1, 2, 1, 1, 1, 1, 1, 1]),
        "co-occurrence": np.array([2, 5, 1, 2, 2, 3, 4, 2, 2, 2]),
    }
    rows = np.array([4, 4, 2, 3, 1, 0, 5, 6, 7, 8])
    mentions = SimpleNamespace(rows=rows, docs=np.arange(10) // 2)
    nothing = np.zeros(10, dtype=np.int64)
    found = Comparison(None, "", True, mentions, 0, ranks, nothing)  # type: ignore[arg-type]
    assert found.examples() == [0, 4, 5, 6, 7]


def test_the_command_shows_all_three_side_by_side(
    run: Path,
    shard_set: ShardSet,
    found: Comparison,
    encoder: PretrainedEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["probe", str(run), "--shards", shard_set.url, "--strips", "4"]
    code, out, _ = call(arguments, monkeypatch, capsys)
    scores = found.scores(encoder.entities)
    numbers = [f"{scores[s]['all'][key]:.3f}" for key in ("top1", "mrr") for s in SYSTEMS]
    assert code == 0
    assert ["all", str(len(found.mentions.rows)), *numbers] in [
        line.split() for line in out.split("\n")
    ]
    assert "hidden as in run small (unit concept, entity_rate 0.4, seed 5)" in out
    code, out, _ = call([*arguments, "--json"], monkeypatch, capsys)
    values = json.loads(out)
    assert code == 0 and values["scores"] == scores and values["own_shards"] is True
    assert values["mentions"] == len(found.mentions.rows)
    for example, number in zip(values["examples"], found.examples(), strict=True):
        true = encoder.entities.row(int(found.mentions.rows[number]))
        assert example["true"]["identifier"] == true["identifier"]
        assert example["counted"] != example["true"]
        assert example["surface"] == found.mentions.surfaces[number]


def test_without_the_run_the_default_settings_apply(run: Path, encoder: PretrainedEncoder) -> None:
    assert run_config(run / "encoder") is not None
    assert run_config(run) is None
    config = run / "config.yaml"
    text = config.read_text()
    try:
        config.write_text(text.replace("name: small", "name: another"))
        assert run_config(run / "encoder") is None
        config.write_text(text.replace("seed: 5", "sead: 5"))
        with pytest.raises(ConfigError, match="by another version: copy"):
            run_config(run / "encoder")
    finally:
        config.write_text(text)


def test_sets_that_cannot_be_measured_are_refused(
    encoder: PretrainedEncoder, shard_set: ShardSet, tmp_path: Path
) -> None:
    whole = write_shards(tmp_path, 10, SMALL, tokenizer=Path(shard_set.url) / "tokenizer")
    with pytest.raises(ValueError, match="no validation split"):
        source_for(encoder, whole.url, None, None)
    source = source_for(encoder, shard_set.url, None, None)
    assert source.seed == 13 and source.data.max_document_tokens == encoder.max_tokens == 128
    nothing = source.with_masking(MaskingConfig(entity_rate=0))
    with pytest.raises(ValueError, match="raise --strips"):
        rank_hidden_mentions(encoder, nothing)
    other = write_shards(
        tmp_path / "other", 40, replace(SMALL, vocabulary=500, validation_share=0.3)
    )
    with pytest.raises(ValueError, match="another tokenizer"):
        source_for(encoder, other.url, None, None)
