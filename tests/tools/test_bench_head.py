"""The benches of the entity head run, and what they count is what they say."""

import json
import multiprocessing
from pathlib import Path

import entity_head
import pytest
import sampled_softmax
from entity_head import MATRIX, NAIVE, ONE_TYPE, SHARED, TYPE_MIX, fits, flops_share, gb_moved
from torch import Tensor

from embre.model import chunked_softmax
from embre.sharding.shard import ShardSettings
from tests.probes import export, vocabulary
from tests.ranks import fork_server
from tests.shard_sets import write_shards


def test_the_comparison_crosses_the_seams_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, num_logits = 1 << 20, []
    monkeypatch.setattr(chunked_softmax, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(entity_head, "CHUNK_LOGITS", chunk)
    naive = entity_head.naive

    def watched(vectors: Tensor, table: Tensor, labels: Tensor) -> Tensor:
        num_logits.append(len(vectors) * len(table))
        return naive(vectors, table, labels)

    monkeypatch.setattr(entity_head, "naive", watched)
    assert entity_head.max_abs_error() < 1e-11
    assert max(num_logits) > 2 * chunk


def test_bytes_grow_with_concepts_and_operations_with_the_types() -> None:
    assert gb_moved(TYPE_MIX, 20_000) == pytest.approx(gb_moved(TYPE_MIX, 10_000), rel=0.05)
    assert 0 < flops_share(TYPE_MIX) < flops_share(ONE_TYPE) < 0.1


def test_what_fits_depends_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 18}.get)
    assert fits(MATRIX, 100_000, 256) and not fits(MATRIX, 1_000_000, 256)
    assert not fits(NAIVE, 100_000, 256)


@pytest.mark.slow
def test_a_sample_is_compared_with_all_on_real_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ShardSettings(shard_documents=60, validation_share=0.2, vocabulary=600)
    shard_set = write_shards(tmp_path, 100, settings)
    names = vocabulary(("Gene", "1", 1, "gene"))
    encoder = export(tmp_path / "encoder", Path(shard_set.url) / "tokenizer", names)
    sampled_softmax.main(shard_set.url, encoder, quick=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= found["exact"] <= 100 and "sample of 0.1, points" in found


@pytest.mark.slow
def test_the_quick_run_ends_with_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A fork of a process that has imported the bench starts in a tenth of the time.
    processes = fork_server(["entity_head"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: processes)
    entity_head.main(quick=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < found["max_abs_error_fp64"] < 1e-10
    assert found["gb_moved_1m_one_type"] > found["gb_moved_1m"] > 0
    assert [row[2] for row in found["sharing"]] == [MATRIX, SHARED] * 2
    assert len(found["memory"]) == 2
