"""A pretraining run as a whole: it exports a plain BERT, and a killed one repeats the whole one."""

import json
import math
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from embre import faults, watchdog
from embre.checkpoints.checkpoints import CheckpointError
from embre.config import EncoderConfig, EntitiesConfig, PretrainConfig, TypeLimits, check_config
from embre.config.sections import NewEncoder
from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.engines.step_guard import Diverged
from embre.interrupts import Interrupted
from embre.job import Job
from embre.model.encoder_folder import load_pretrained
from embre.model.pretraining_model import LOSSES
from embre.pretrain import check, chosen, covered, held_out, pretrain
from embre.provenance import LINEAGE
from embre.sharding.shard import ShardSettings, shard
from embre.shards.entities import vocabulary_of
from embre.shards.shard_set import ShardSet
from embre.stream.batch import Batch
from embre.stream.source import StreamSource
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking import read_events
from embre.validation_set import ValidationSet
from embre.world import World
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_pubtator(folder / "corpus.PubTator", make_corpus(60, seed=3))
    settings = ShardSettings(
        block_documents=5, shard_documents=10, validation_share=0.15, vocabulary=400
    )
    shard([str(folder / "corpus.PubTator")], folder / "set", None, [], settings)
    return folder / "set"


def config_of(shards: Path, **sections: object) -> PretrainConfig:
    values = {
        "name": "small",
        "encoder": {
            "path": str(shards / "tokenizer"),
            "new": {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16},
            "dropout": 0.1,
        },
        "data": {
            "shards": str(shards),
            "streams": 2,
            "strip_tokens": 400,
            "max_document_tokens": 128,
        },
        "entities": {"dimension": 8},
        "optimizer": {"peak_lr": 1e-3, "warmup_steps": 2},
        "train": {
            "steps": 6,
            "save_every_steps": 2,
            "log_every_steps": 1,
            "validate_every_steps": 3,
        },
        **sections,
    }
    return check_config(PretrainConfig, values, "test")


def run(world: World, config: PretrainConfig, folder: str) -> list[dict]:
    Path(folder).mkdir(parents=True, exist_ok=True)
    pretrain(Job(config, Path(folder), None), world)
    return list(read_events(Path(folder), "step"))


def losses(events: list[dict]) -> list[list[float]]:
    keys = ("loss/token", "loss/type", "loss/identifier", "grad_norm")
    return [[event[key] for key in keys] for event in events]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults._armed.clear()


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, losses(run(World(), config_of(shards), str(folder)))


def test_the_encoder_is_a_plain_bert_with_its_tokenizer(whole: tuple[Path, list]) -> None:
    encoder = whole[0] / "encoder"
    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    inputs = tokenizer("KRV2 raised the risk of Lunver fever.", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    plain = AutoModel.from_pretrained(encoder, local_files_only=True).eval()
    masked = AutoModelForMaskedLM.from_pretrained(encoder, local_files_only=True).eval()
    with torch.no_grad():
        hidden = plain(**inputs).last_hidden_state
        torch.testing.assert_close(masked.cls(hidden), masked(**inputs).logits)
    entities = vocabulary_of(pq.read_table(encoder / "concepts.parquet"))
    assert sum(entities.sizes) == len(entities.hashes) > 20


def test_an_encoder_lists_what_all_its_trainings_held_out(
    whole: tuple[Path, list], shards: Path, tmp_path: Path
) -> None:
    told = json.loads((whole[0] / "encoder" / LINEAGE).read_text())
    assert told["held_out"] == [], "its shard set holds nothing out"
    manifest = msgspec.structs.replace(
        ShardSet.open(shards).manifest, held_out={"dev.PubTator": 3, "biored": 0}
    )
    again = EncoderConfig(path=str(tmp_path))
    assert held_out(again, manifest) == ["biored", "dev.PubTator"]
    (tmp_path / LINEAGE).write_text(json.dumps({"shard_set": "5" * 64, "held_out": ["biored"]}))
    assert held_out(again, manifest) == ["biored"]
    anew = again.model_copy(update={"new": NewEncoder()})
    assert held_out(anew, manifest) == ["biored", "dev.PubTator"]


def test_coverage_of_the_vocabulary_is_logged_before_the_first_step(
    whole: tuple[Path, list], shards: Path, tmp_path: Path
) -> None:
    (event,) = read_events(whole[0], "vocabulary")
    assert 0.5 < event["vocabulary/of_normalised/all"] < 1  # concepts that stand once are out
    assert "vocabulary/of_normalised/Gene" in event
    shard_set = ShardSet.open(shards)
    only = EntitiesConfig(max_per_type=1, per_type={"Gene": TypeLimits(max_per_type=0)})
    shares = covered(shard_set, chosen(shard_set, config_of(shards, entities=only)))
    assert shares["of_normalised/Gene"] == 0 < shares["of_normalised/Disease"] < 1


def test_validation_is_measured_when_due(whole: tuple[Path, list]) -> None:
    events = list(read_events(whole[0], "validation"))
    assert [event["step"] for event in events] == [3, 6]
    assert 0 <= events[-1]["validation/accuracy/type"] <= 1


def test_validation_targets_are_always_masked(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shards, masking={"entity_rate": 0.5})
    shard_set, tokenizer = ShardSet.open(str(shards)), load_tokenizer(shards / "tokenizer")
    entities = chosen(shard_set, config)
    source = StreamSource.build(shard_set, config.data, config.masking, entities, tokenizer, 13)
    asked: list[Batch] = []

    def model(batch: Batch) -> dict[str, torch.Tensor]:
        asked.append(batch)
        found = {name: torch.zeros(()) for name in (*LOSSES, "right/token", "right/type")}
        return found | {"rank/identifier": torch.ones(batch.counts["identifier"])}

    engine: Any = SimpleNamespace(module=SimpleNamespace(eval=lambda: model))
    heard: list[None] = []
    monkeypatch.setattr(watchdog, "report_progress", lambda: heard.append(None))
    ValidationSet(source, World()).validate(engine)
    assert len(heard) == len(asked), "or a slow validation would pass for a rank that hangs"
    assert sum(batch.counts["type"] for batch in asked) > 50
    for batch in asked:
        spots = [batch.rows[start:end] for start, end in batch.mention_spans.tolist()]
        spots = torch.cat([*spots, batch.rows[batch.token_target_rows]])
        assert (batch.input_ids[spots] == tokenizer.special.mask).all()


def test_losses_and_accuracies_without_targets_are_not_logged(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, masking={"objective": "token"})
    (event, *_) = run(World(), config, str(tmp_path))
    assert {key for key in event if key.startswith("loss/")} == {"loss/token"}
    (event, *_) = read_events(tmp_path, "validation")
    found = {key for key in event if key.startswith("validation/")}
    assert found == {"validation/loss/token", "validation/accuracy/token"}
    exported = load_pretrained(tmp_path / "encoder", torch.device("cpu"))
    assert sum(exported.entities.sizes) == 0, "it has no concept to learn, keep and update"


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_killed_run_resumes_bit_for_bit(
    whole: tuple[Path, list], shards: Path, tmp_path: Path, stop: int
) -> None:
    faults.arm(f"step:{stop}:raise", tmp_path, rank=0)
    with pytest.raises(RuntimeError, match="injected fault"):
        run(World(), config_of(shards), str(tmp_path))
    events = run(World(), config_of(shards), str(tmp_path))
    by_step = {event["step"]: event for event in events}
    assert losses([by_step[step] for step in range(1, 7)]) == whole[1]
    begun = [event["step"] for event in read_events(tmp_path, "started")]
    assert begun == [0, (stop - 1) // 2 * 2]
    for name in ("model.safetensors", "entity_head.safetensors"):
        ours, reference = (folder / "encoder" / name for folder in (tmp_path, whole[0]))
        assert ours.read_bytes() == reference.read_bytes(), name


@pytest.mark.slow
def test_an_error_ends_the_processes_of_the_loader(shards: Path, tmp_path: Path) -> None:
    faults.arm("step:2:raise", tmp_path, rank=0)
    config = config_of(shards)
    data = config.data.model_copy(update={"loader_workers": 1})
    with pytest.raises(RuntimeError, match="injected fault") as raised:
        run(World(), config.model_copy(update={"data": data}), str(tmp_path))
    assert raised.traceback, "which keeps the frames, as when Python waits for them at its end"
    assert not multiprocessing.active_children()


def test_a_step_with_nan_loss_is_skipped_and_logged(
    whole: tuple[Path, list], shards: Path, tmp_path: Path
) -> None:
    faults.arm("loss:5:nan", tmp_path, rank=0)  # two micro-batches a step: in the third
    events = run(World(), config_of(shards), str(tmp_path))
    assert losses(events[:2]) == whole[1][:2]
    assert [event["data"] for event in events] == [
        event["data"] for event in read_events(whole[0], "step")
    ]
    assert all(math.isfinite(value) for event in losses(events[3:]) for value in event)
    assert [event.get("updates_skipped") for event in events] == [None, None, 1, 1, 1, 1]
    (skipped,) = read_events(tmp_path, "skipped")
    assert skipped["step"] == 3 and skipped["why"] == "the loss is not finite"
    assert len(skipped["documents"]) > 1 and all(skipped["documents"])


def test_three_skipped_steps_in_a_row_end_the_run(shards: Path, tmp_path: Path) -> None:
    faults.arm("loss:3:nan,loss:5:nan,loss:7:nan", tmp_path, rank=0)
    with pytest.raises(Diverged, match=r"3 updates in a row .* up to step 4: .* documents are \d"):
        run(World(), config_of(shards), str(tmp_path))
    assert [event["step"] for event in read_events(tmp_path, "skipped")] == [2, 3, 4]


def test_the_number_of_skipped_steps_survives_a_restart(shards: Path, tmp_path: Path) -> None:
    faults.arm("loss:3:nan,loss:5:nan,step:4:raise,loss:7:nan", tmp_path, rank=0)
    saving = config_of(shards, train={"steps": 6, "save_every_steps": 1, "validate_every_steps": 6})
    with pytest.raises(RuntimeError, match="injected fault"):
        run(World(), saving, str(tmp_path))
    faults._armed.clear()
    faults.arm("loss:1:nan", tmp_path, rank=0)
    with pytest.raises(Diverged, match="up to step 4"):
        run(World(), saving, str(tmp_path))


def test_a_resumed_run_with_another_config_is_refused(shards: Path, tmp_path: Path) -> None:
    faults.arm("step:4:raise", tmp_path, rank=0)
    with pytest.raises(RuntimeError, match="injected fault"):
        run(World(), config_of(shards), str(tmp_path))
    with pytest.raises(CheckpointError, match="another config"):
        run(World(), config_of(shards, seed=14), str(tmp_path))


@pytest.mark.slow
def test_a_compiled_run_is_reproducible_on_ranks_and_after_a_stop(
    shards: Path, tmp_path: Path
) -> None:
    encoder = config_of(shards).encoder.model_dump() | {"compile": True}
    config = config_of(shards, encoder=encoder)
    alone = losses(run(World(), config, str(tmp_path / "alone")))
    whole, stopped = run_ranks(stop_and_go_on, 2, config, str(tmp_path / "torch"))[0]
    assert stopped == whole
    zero_1 = config_of(shards, encoder=encoder, engine="deepspeed")
    found = losses(run_ranks(run, 2, zero_1, str(tmp_path / "zero"))[0])
    for ours, theirs, reference in zip(whole, found, alone, strict=True):
        assert ours == pytest.approx(reference, rel=1e-4)
        assert theirs == pytest.approx(reference, rel=1e-4)


@pytest.mark.slow
def test_checkpointing_changes_nothing_under_zero_3(
    whole: tuple[Path, list], shards: Path, tmp_path: Path
) -> None:
    encoder = config_of(shards).encoder.model_dump() | {"activation_checkpointing": True}
    config = config_of(shards, encoder=encoder, engine="deepspeed", deepspeed=zero(3))
    for ours, reference in zip(
        losses(run_ranks(run, 2, config, str(tmp_path))[0]), whole[1], strict=True
    ):
        assert ours == pytest.approx(reference, rel=1e-4)


def stop_and_go_on(world: World, config: PretrainConfig, folder: str) -> list[list]:
    """Losses of a run, and of one that breaks in step 4 and goes on."""
    whole = losses(run(world, config, f"{folder}/whole"))
    faults.arm("step:4:raise", Path(folder), world.rank)
    with pytest.raises(RuntimeError, match="injected fault"):
        run(world, config, f"{folder}/stopped")
    events = run(world, config, f"{folder}/stopped")
    by_step = {event["step"]: event for event in events}
    return [whole, losses([by_step[step] for step in range(1, 7)])]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_resume_bit_for_bit_under_zero(
    shards: Path, tmp_path: Path, stage: int, precision: str
) -> None:
    config = config_of(shards, engine="deepspeed", deepspeed=zero(stage))
    encoder = config.encoder.model_copy(update={"precision": precision})
    config = config.model_copy(update={"encoder": encoder})
    whole, stopped = run_ranks(stop_and_go_on, 2, config, str(tmp_path))[0]
    assert len(whole) == 6 and stopped == whole
    for name in ("model.safetensors", "entity_head.safetensors"):
        ours, reference = (tmp_path / n / "encoder" / name for n in ("stopped", "whole"))
        assert ours.read_bytes() == reference.read_bytes(), name


def zero(stage: int) -> dict:
    # Under stage 3 no parameter stays whole for longer than it is used.
    settings = {
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_param_persistence_threshold": 0,
    }
    return {"zero_optimization": {"stage": stage, **settings}}


# A table that the ranks share, its larger types learnt against a sample.
SHARED = {"dimension": 8, "shard_above": 0, "sample_above": 3, "sample_share": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("entities", [{"dimension": 8}, SHARED], ids=["one matrix", "shared"])
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_run_resumes_with_another_number_of_ranks(
    shards: Path, tmp_path: Path, engine: str, entities: dict
) -> None:
    data = config_of(shards).data.model_dump() | {"streams": 4}
    config = config_of(shards, data=data, engine=engine, entities=entities)
    whole = run_ranks(run, 2, config, str(tmp_path / "whole"))[0]
    for size, steps in ((2, "step:3:raise"), (4, "step:3:raise"), (1, None)):
        run_ranks(run_up_to, size, config, str(tmp_path / "resized"), steps)
    events = list(read_events(tmp_path / "resized"))
    begun = [event["step"] for event in events if event["event"] == "started"]
    assert begun == [0, 2, 4]
    by_step = {event["step"]: event for event in events if event["event"] == "step"}
    resized = [by_step[step] for step in range(1, 7)]
    for ours, reference in zip(losses(resized), losses(whole), strict=True):
        assert ours == pytest.approx(reference, rel=1e-5)


def run_up_to(world: World, config: PretrainConfig, folder: str, fault: str | None) -> None:
    if fault is None:
        run(world, config, folder)
        return
    Path(folder).mkdir(exist_ok=True)
    marks = Path(folder) / f"marks-{world.size}"
    marks.mkdir(exist_ok=True)
    faults.arm(fault, marks, world.rank)
    with pytest.raises(RuntimeError, match="injected fault"):
        run(world, config, folder)


def test_a_stopped_run_saves_and_resumes(
    whole: tuple[Path, list], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        asked = iter([True, False, False, False, True, True])  # before the first step, then in each
        patch.setattr("embre.interrupts.stop_requested", lambda: next(asked))
        for stopped in ("before step 1 of 6", "after step 3 of 6, which is saved", "before step 4"):
            with pytest.raises(Interrupted, match=f"stopped {stopped}"):
                run(World(), config_of(shards), str(tmp_path))
    events = run(World(), config_of(shards), str(tmp_path))
    assert [event["step"] for event in read_events(tmp_path, "started")] == [0, 0, 3, 3]
    assert losses(events) == whole[1]


def test_a_requested_save_does_not_change_the_run(
    whole: tuple[Path, list], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([False, False, True, False, False, False])
    monkeypatch.setattr("embre.interrupts.take_save_request", lambda: next(asked))
    events = run(World(), config_of(shards), str(tmp_path))
    assert [event["step"] for event in read_events(tmp_path, "saved")] == [2, 3, 4, 6]
    assert losses(events) == whole[1]
    weights = (folder / "encoder/model.safetensors" for folder in (tmp_path, whole[0]))
    assert len({path.read_bytes() for path in weights}) == 1


def asked_one_after_the_other(world: World, config: PretrainConfig, folder: str) -> list:
    """Rank 0 sees a request to save in step 3, and every other rank one step later."""
    asked = (step == 3 + world.rank for step in range(1, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embre.interrupts.take_save_request", lambda: next(asked))
        return losses(run(world, config, folder))


@pytest.mark.slow
def test_all_ranks_save_once_after_the_same_step(shards: Path, tmp_path: Path) -> None:
    train = {"steps": 6, "save_every_steps": 6, "log_every_steps": 1}
    config = config_of(shards, train=train)
    whole = run_ranks(run, 2, config, str(tmp_path / "whole"))[0]
    found = run_ranks(asked_one_after_the_other, 2, config, str(tmp_path / "asked"))[0]
    assert [event["step"] for event in read_events(tmp_path / "asked", "saved")] == [3, 6]
    assert found == losses(whole)
    files = [p.name for p in (tmp_path / "asked/checkpoints/step-000000003").glob("*.safetensors")]
    assert sorted(files) == ["rank-000.safetensors", "rank-001.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1, 3])
def test_two_ranks_give_the_curve_and_encoder_of_one(
    whole: tuple[Path, list], shards: Path, tmp_path: Path, stage: int | None
) -> None:
    sections: dict = {"engine": "torch"}
    if stage is not None:
        sections = {"engine": "deepspeed", "deepspeed": zero(stage)}
    found, _ = run_ranks(run, 2, config_of(shards, **sections), str(tmp_path))
    assert len(found) == 6
    for ours, reference in zip(losses(found), whole[1], strict=True):
        assert ours == pytest.approx(reference, rel=1e-4)
    for name in ("model.safetensors", "entity_head.safetensors"):
        ours, reference = (load_file(run / "encoder" / name) for run in (tmp_path, whole[0]))
        assert ours.keys() == reference.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, reference[key], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_ranks_that_do_not_divide_the_streams_give_the_same_curve(
    shards: Path, tmp_path: Path, engine: str
) -> None:
    data = config_of(shards).data.model_dump() | {"streams": 4}
    alone = losses(run(World(), config_of(shards, data=data), str(tmp_path / "alone")))
    config = config_of(shards, data=data, engine=engine)
    found = run_ranks(run, 3, config, str(tmp_path / "three"))[0]
    for ours, reference in zip(losses(found), alone, strict=True):
        assert ours == pytest.approx(reference, rel=1e-4)


def test_a_killed_run_with_a_sharded_table_resumes_bit_for_bit(
    shards: Path, tmp_path: Path
) -> None:
    config = config_of(shards, entities=SHARED)
    wanted, found = stop_and_go_on(World(), config, str(tmp_path))
    assert found == wanted
    heads = [tmp_path / name / "encoder/entity_head.safetensors" for name in ("whole", "stopped")]
    assert heads[0].read_bytes() == heads[1].read_bytes()
    head, rows = load_file(heads[0]), pq.read_table(heads[0].parent / "concepts.parquet").num_rows
    assert head["entity_head.concepts.weight"].shape == (rows, 8)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1, 3])
def test_two_ranks_with_a_sharded_table_give_the_curve_of_one(
    shards: Path, tmp_path: Path, stage: int | None
) -> None:
    alone = losses(run(World(), config_of(shards, entities=SHARED), str(tmp_path / "alone")))
    sections: dict = {"entities": SHARED}
    if stage is not None:
        sections |= {"engine": "deepspeed", "deepspeed": zero(stage)}
    found = run_ranks(run, 2, config_of(shards, **sections), str(tmp_path / "two"))[0]
    for ours, reference in zip(losses(found), alone, strict=True):
        assert ours == pytest.approx(reference, rel=1e-4)
    heads = [tmp_path / n / "encoder/entity_head.safetensors" for n in ("alone", "two")]
    ours, reference = (load_file(path)["entity_head.concepts.weight"] for path in heads)
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-3)
    measured = [list(read_events(tmp_path / n, "validation"))[-1] for n in ("alone", "two")]
    names = [name for name in measured[0] if "identifier" in name]
    assert len(names) > 10, "by type and by frequency"
    for name in names:
        assert measured[0][name] == pytest.approx(measured[1][name], rel=1e-3), name


def test_invalid_settings_are_refused_before_a_rank_starts(shards: Path) -> None:
    def data(**changes: object) -> dict:
        return config_of(shards).data.model_dump() | changes

    with pytest.raises(FileNotFoundError, match="no shard set here"):
        check(config_of(shards, data=data(shards=str(shards / "none"))))
    with pytest.raises(ValueError, match="training shards for 50 streams"):
        check(config_of(shards, data=data(streams=50)))
    with pytest.raises(ValueError, match="raise data.streams or take fewer workers"):
        check(config_of(shards, launch={"launcher": "ray", "workers": 3}))
