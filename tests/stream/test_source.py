"""What a stream may be read from, and what of it is left out."""

import shutil
from itertools import islice
from pathlib import Path

import pytest

from embre.config import DataConfig, MaskingConfig
from embre.shards.entities import choose_entities
from embre.shards.shard_set import DamagedShard, ShardSet
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource
from tests.shard_sets import own_tokenizer, source_of, write_shards
from tests.stream.steps import epoch_of, open_ranks, take
from tests.tiny import tiny_tokenizer


def damage(shard_set: ShardSet, folder: Path) -> tuple[ShardSet, set[str]]:
    """A copy whose first training shard has one flipped byte, and the documents of that shard."""
    copy = Path(shutil.copytree(shard_set.url, folder / "damaged"))
    first = shard_set.shards("train")[0]
    lost = {name for block in shard_set.load(first) for name in block.doc_ids}
    data = bytearray((copy / first.name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / first.name).write_bytes(data)
    return ShardSet.open(copy), lost


def test_a_damaged_shard_stops_a_run_or_is_set_aside_whole(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    damaged, lost = damage(shard_set, tmp_path)
    careful = source_of(damaged, streams=2)
    with pytest.raises(DamagedShard, match=r"train-000000\.tar.*copy or write it again"):
        list(islice(stream_batches(careful, 0), 40)) + list(islice(stream_batches(careful, 1), 40))
    aside = tmp_path / "quarantine"
    source = source_of(damaged, streams=2, quarantine=aside, on_bad_shard="quarantine")
    epochs = [{n for s in (0, 1) for n in epoch_of(source, epoch, s).doc_ids} for epoch in (0, 1)]
    whole = {n for s in (0, 1) for n in epoch_of(source_of(shard_set, streams=2), 0, s).doc_ids}
    assert epochs == [whole - lost, whole - lost] and lost
    (note,) = aside.glob("*/*")
    assert note.name == "train-000000.tar.txt" and "the shard is damaged" in note.read_text()
    assert source.num_quarantined() == 1
    assert take(open_ranks(source, 2), 9) == take(open_ranks(source, 1), 9)


def test_what_was_set_aside_of_another_set_is_read(shard_set: ShardSet, tmp_path: Path) -> None:
    damaged, lost = damage(shard_set, tmp_path)
    (tmp_path / "other").mkdir()
    other = write_shards(tmp_path / "other", 40, seed=2)
    aside = tmp_path / "quarantine"
    source, sound = (
        source_of(one, streams=1, quarantine=aside, on_bad_shard="quarantine")
        for one in (damaged, other)
    )
    first = shard_set.shards("train")[0].name
    assert not len(source.read(source.shard_set.shards("train")[0], 0)) and lost
    (entry,) = (one for one in other.shards("train") if one.name == first)
    assert len(sound.read(entry, 0)) and (source.num_quarantined(), sound.num_quarantined()) == (
        1,
        0,
    )


def test_a_stream_without_any_sound_shard_ends_with_an_error(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    damaged, _ = damage(shard_set, tmp_path)
    source = source_of(
        damaged, streams=10, quarantine=tmp_path / "aside", on_bad_shard="quarantine"
    )
    with pytest.raises(ValueError, match="no document in an epoch; restore the damaged shards"):
        for stream in range(10):
            epoch_of(source, stream=stream)


def test_too_few_shards_is_an_error_with_a_remedy(shard_set: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"10 training shards for 11 streams; lower data\.streams"):
        source_of(shard_set, streams=11)


def test_another_tokenizer_is_an_error_with_a_remedy(shard_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another tokenizer.*shard again with --tokenizer"):
        StreamSource.build(
            shard_set,
            DataConfig(shards=shard_set.url, streams=2),
            MaskingConfig(),
            choose_entities(shard_set, 1, 10),
            tiny_tokenizer(tmp_path),
            13,
        )
    assert own_tokenizer(shard_set).fingerprint == shard_set.manifest.tokenizer


def test_a_strip_shorter_than_a_document_is_refused() -> None:
    with pytest.raises(ValueError, match="strip_tokens"):
        DataConfig(shards="x", strip_tokens=100, max_document_tokens=101)
