"""The ladder of the training step compares what is alike, and its quick run ends with numbers."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import head_time
import numpy as np
import pytest
import step_traffic
import torch
from step_rungs import Padded, Setting, flops_of, hugging_face, ours, with_all_rows
from step_texts import MAX_TOKENS, NUM_SPECIAL, made_up_texts, padded

from embre.config import EncoderConfig, NewEncoder
from embre.model.backbone import load_encoder
from embre.model.strip_forward import LowPrecisionLayerNorm
from embre.model.token_head import AlignedLinear, align
from embre.world import World
from tests.tiny import tiny_tokenizer

BENCH = Path(__file__).resolve().parents[2] / "tools/bench/pretrain_step.py"


@pytest.fixture(scope="module")
def setting() -> Setting:
    texts = made_up_texts(2048, num_strips=4, vocabulary=300, num_concepts=60)
    shape = NewEncoder(layers=2, hidden=32, heads=2, feed_forward=64)
    return Setting(World(), shape, False, 2048, 1, 4, texts)


def test_made_up_documents_are_as_long_and_dense_as_bioreds() -> None:
    texts = made_up_texts(16_384, num_strips=100, vocabulary=300, num_concepts=10_000)
    lengths = texts.examples.lengths
    assert lengths.mean() == pytest.approx(341, abs=3)
    assert (lengths**2).mean() / lengths.mean() == pytest.approx(364, abs=4)
    assert lengths.max() <= MAX_TOKENS - NUM_SPECIAL
    rows, starts = texts.examples.mentions, texts.examples.mention_starts
    assert len(rows) / len(lengths) == pytest.approx(33.8, abs=1.5)
    assert (rows["start"] < rows["end"]).all()
    assert texts.settings.entities.lookup(rows["concept"]).min() == 0
    for first, last in pairwise(starts.tolist()):
        assert (rows["end"][first : last - 1] <= rows["start"][first + 1 : last]).all()


def test_all_rungs_learn_from_the_same_targets(setting: Setting) -> None:
    """Hugging Face's padded BERT and our packed one have the same loss of the same documents."""
    batch = setting.batches("token")[0]
    (rows,) = padded([batch], len(batch.doc_ids), setting.texts.settings.special.pad)
    assert rows.counts["token"] == batch.counts["token"]
    assert rows.num_tokens == batch.num_tokens
    expected = Padded(setting.bert(), half_precision=False)(rows)["token"]
    model = ours(setting, "token", False).engine.module
    for one in (batch, with_all_rows(batch)):
        torch.testing.assert_close(model(one)["token"], expected, rtol=1e-5, atol=1e-4)


def test_our_rungs_have_the_modules_of_a_run(setting: Setting, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    model: Any = ours(setting, "token", False).engine.module
    run = load_encoder(EncoderConfig(path=str(tmp_path), new=setting.shape), tokenizer)
    align(run)
    kinds, expected = (
        {name: type(module) for name, module in bert.named_modules()}
        for bert in (model.encoder, run)
    )
    assert kinds == expected
    assert {LowPrecisionLayerNorm, AlignedLinear} <= {*kinds.values()}
    plain = {*map(type, setting.bert().modules())}
    assert not plain & {LowPrecisionLayerNorm, AlignedLinear}, "what others measure is plain"


def test_operations_are_counted_with_what_is_wasted(setting: Setting) -> None:
    padded_rung, packed = hugging_face(setting, False), ours(setting, "token", False)
    whole = ours(setting, "token", False, all_rows=True)
    assert padded_rung.flops > 1.3 * whole.flops > 1.3 * packed.flops
    batches = setting.batches("token")
    lengths = np.concatenate([np.diff(b.cu_seqlens[: len(b.doc_ids) + 1]) for b in batches])
    mean = (lengths**2).sum() / lengths.sum()
    targets = sum(len(batch.token_labels) for batch in batches) / lengths.sum()
    rows = sum(len(batch.rows) for batch in batches) / lengths.sum()
    no_concepts = (0,) * len(setting.texts.settings.entities.sizes)
    counted = flops_of(setting, [replace(batch) for batch in batches], no_concepts)
    assert counted == pytest.approx(setting.flops(mean, targets, rows))


@pytest.mark.slow
def test_the_quick_ladder_ends_with_one_json_object() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick"], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens_per_s"] > 0 and 0 < found["mfu"]
    assert found["ratio_to_hf_padded"] > 1 and found["ratio_to_hf_compiled"] is None
    assert found["zero1_ratio"] > 0 and found["compiled_again"] == 0


@pytest.mark.slow
def test_norms_in_the_precision_of_the_strip_move_far_fewer_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    step_traffic.main(quick=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ours_products"] == found["float32_norms_products"] > 0
    assert 0 < found["ours_between"] < 0.65 * found["float32_norms_between"]


@pytest.mark.slow
def test_the_share_of_the_head_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    head_time.main(quick=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["concepts"] for one in found] == [100, 1000]
    assert all(0 < one["head_ms"] < one["step_ms"] for one in found)
