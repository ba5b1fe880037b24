"""One contract for both engines: same losses and same gradient norms, whatever side and stage."""

import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from embre.config import OptimizerConfig
from embre.data_hash import data_hash
from embre.engines import training_state
from embre.engines.compiled_ops import OPS_FOLDER_VARIABLE, STALE_AFTER_S, stale_locks
from embre.engines.deepspeed_config import deepspeed_json
from embre.engines.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from embre.engines.engine import StepResult
from embre.engines.step import learning_rate, set_learning_rates
from embre.engines.step_guard import HISTORY, MIN_HISTORY
from embre.engines.torch_engine import TorchEngine
from embre.model.table_rows import TableRows
from embre.world import World
from tests.ranks import run_ranks

OPTIMIZER = OptimizerConfig(
    peak_lr=1e-2, max_grad_norm=0.3, warmup_steps=2, encoder_lr_ratio=0.5, encoder_frozen_steps=2
)
WEIGHTS = {"red": 1.0, "blue": 0.5}
STEPS, SLOTS = 8, 4


@dataclass(frozen=True)
class Toy:
    """A micro-batch whose two losses have different numbers of targets in every slot."""

    slot: int
    inputs: Tensor
    labels: Tensor
    gradient: float = 1.0  # what its gradient is made times as large as

    @property
    def counts(self) -> dict[str, int]:
        return {"red": len(self.labels), "blue": len(self.labels) // 2}

    @property
    def num_tokens(self) -> int:
        return len(self.labels)

    @property
    def data_hash(self) -> int:
        return data_hash(self.slot, (self.inputs, self.labels))

    @property
    def doc_ids(self) -> tuple[str, ...]:
        return (f"document-{self.slot}",)

    def to(self, device: torch.device) -> "Toy":
        return self


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bert = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.2))
        self.red, self.blue = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, batch: Toy) -> dict[str, Tensor]:
        hidden = self.bert(batch.inputs)
        if batch.gradient != 1:
            hidden.register_hook(lambda gradient: gradient * batch.gradient)
        half = len(batch.labels) // 2
        return {
            "red": nn.functional.cross_entropy(self.red(hidden), batch.labels, reduction="sum"),
            "blue": nn.functional.cross_entropy(
                self.blue(hidden[:half]), batch.labels[:half], reduction="sum"
            ),
        }


@pytest.mark.parametrize("make", [TorchEngine, DeepSpeedEngine])
def test_tied_weights_that_come_from_a_device_are_one_tensor(
    monkeypatch: pytest.MonkeyPatch, make: type
) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5), nn.Linear(3, 5), nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    engine = object.__new__(make)
    if make is TorchEngine:
        engine._model = model
    else:
        engine.stage, engine._engine = 2, SimpleNamespace(module=model)
    monkeypatch.setattr(Tensor, "cpu", Tensor.clone)  # as from a device, which copies
    weights = engine.weights()
    assert weights["0.weight"] is weights["1.weight"]
    assert len({value.data_ptr() for value in weights.values()}) == len(weights) - 1
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def micro_batches(step: int, world: World) -> list[Toy]:
    found = []
    for slot in range(SLOTS)[world.rank :: world.size]:
        rng = torch.Generator().manual_seed(100 * step + slot)
        size = 3 + 4 * slot  # unequal on purpose: a mean of means would differ
        inputs = torch.randn(size, 6, generator=rng)
        found.append(Toy(slot, inputs, inputs[:, :4].argmax(1)))
    return found


State = dict[str, list]  # tensors as lists: what comes back from a rank has to be copied


def toy_engine(
    world: World, stage: int | None, config: OptimizerConfig = OPTIMIZER
) -> TorchEngine | DeepSpeedEngine:
    if stage is None:
        return TorchEngine(ToyModel(), config, WEIGHTS, world, seed=1)
    # Some parameters stay whole under ZeRO-3, and some are cut.
    given = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 20}}
    settings = deepspeed_json(given, config, SLOTS // world.size, world)
    return DeepSpeedEngine(ToyModel(), config, WEIGHTS, world, 1, settings)


def walk(
    world: World, stage: int | None, first: int, last: int, state: State | None = None
) -> tuple[list[tuple[dict[str, float], float]], State]:
    """The steps `first` to `last` from a state on, and this rank's share of the state after."""
    engine = toy_engine(world, stage)
    if state is not None:
        doubles = {HISTORY: torch.float64}
        engine.load_state(
            {name: torch.tensor(values, dtype=doubles.get(name)) for name, values in state.items()}
        )
    results = [engine.step(micro_batches(n, world), n, lr=1e-2) for n in range(first, last)]
    share = {name: value.tolist() for name, value in engine.state().items()}
    return [(result.losses, result.grad_norm) for result in results], share


def walk_on(size: int, stage: int | None, first: int, last: int, state: State | None = None):
    """The same on `size` ranks: what all of them saw, and the whole state."""
    found = run_ranks(walk, size, stage, first, last, state)
    assert all(curve == found[0][0] for curve, _ in found)
    whole: State = {}
    for _, share in found:
        assert not whole.keys() & share.keys(), "each part of the state is in one share"
        whole |= share
    return found[0][0], whole


def assert_alike(first: Sequence, second: Sequence) -> None:
    for (losses, norm), (other_losses, other_norm) in zip(first, second, strict=True):
        assert losses == pytest.approx(other_losses, rel=1e-5)
        assert norm == pytest.approx(other_norm, rel=1e-5)


@pytest.fixture(scope="module")
def reference() -> list[tuple[dict[str, float], float]]:
    return walk(World(), None, 0, STEPS)[0]


def test_the_reference_learns_and_clips(reference: list) -> None:
    assert reference[-1][0]["red"] < reference[0][0]["red"]
    assert any(norm > OPTIMIZER.max_grad_norm for _, norm in reference), "clipping is not exercised"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_two_ranks_walk_the_curve_of_one(reference: list, stage: int | None) -> None:
    assert_alike(walk_on(2, stage, 0, STEPS)[0], reference)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_what_goes_on_from_a_state_repeats_the_whole_to_the_last_bit(stage: int | None) -> None:
    curve, end = walk_on(2, stage, 0, STEPS)
    before, state = walk_on(2, stage, 0, 5)
    after, same_end = walk_on(2, stage, 5, STEPS, state)
    assert before + after == curve
    assert same_end == end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "taken_up"),
    [((2, 3), (1, 1)), ((1, 2), (4, 3)), ((4, 1), (2, None)), ((1, 0), (2, 2))],
)
def test_any_number_of_ranks_and_any_stage_takes_up_a_state(
    reference: list, saved: tuple, taken_up: tuple
) -> None:
    before, state = walk_on(*saved, 0, 5)
    after, end = walk_on(*taken_up, 5, STEPS, state)
    assert_alike(before + after, reference)
    assert end["updates"] == STEPS and end.keys() == state.keys()


def checksums(world: World, stage: int | None) -> tuple[int, int, int]:
    """Of a new engine, after some steps, and where a weight of the last rank is another."""
    engine = toy_engine(world, stage)
    found = [engine.checksum()]
    for n in range(3):
        engine.step(micro_batches(n, world), n, lr=1e-2)
    found.append(engine.checksum())
    if world.rank == world.size - 1 and stage != 3:
        *_, last = engine.module.parameters()
        last.data[0] += 1e-3
    return *found, engine.checksum()  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_a_checksum_is_the_same_on_all_ranks_until_a_weight_is_not(stage: int | None) -> None:
    (before, after, last), (same, as_well, other) = run_ranks(checksums, 2, stage)
    assert (before, after) == (same, as_well) and after == last
    assert (before == after == other == 0) if stage == 3 else before != after != other


def unlike_norms(world: World, stage: int | None) -> tuple[float, int]:
    """The last norm and the checksum of a rank whose norms come out larger than those of rank 0."""
    exact = nn.utils.get_total_norm
    with mock.patch.object(nn.utils, "get_total_norm", lambda g: exact(g) * (1 + world.rank)):
        engine = toy_engine(world, stage)
        results = [engine.step(micro_batches(n, world), n, lr=1e-2) for n in range(3)]
    return results[-1].grad_norm, engine.checksum()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0])  # ZeRO all-reduces the norm at other stages
def test_ranks_whose_norms_differ_keep_the_same_weights(stage: int | None) -> None:
    one, other = run_ranks(unlike_norms, 2, stage)
    assert one == other and one[0] > OPTIMIZER.max_grad_norm


def test_a_checksum_changes_with_any_bit_and_with_the_place_of_a_value() -> None:
    found = [
        training_state.checksum(map(torch.tensor, values))
        for values in (
            [[0.5, 1.0], [2.0]],
            [[0.5, 1.0000001], [2.0]],
            [[0.5, 2.0], [1.0]],
            [[0.5, 1.0], [-2.0]],
        )
    ]
    assert len({*found}) == len(found)


def walk_past(
    world: World, stage: int | None, steps: Sequence[int], bad: int, **spoilt: float
) -> tuple[list[StepResult], State]:
    """These steps; in the `bad` one the inputs or gradient of one micro-batch, on one rank, are
    made so many times as large."""
    engine = toy_engine(world, stage, OPTIMIZER.model_copy(update={"spike_sigmas": 6.0}))
    results = []
    for n in steps:
        batches = micro_batches(n, world)
        if n == bad:
            factor, gradient = spoilt.get("inputs", 1.0), spoilt.get("gradient", 1.0)
            batches = [
                replace(b, inputs=b.inputs * factor, gradient=gradient) if b.slot == 3 else b
                for b in batches
            ]
        results.append(engine.step(batches, n, lr=1e-2))
    return results, {name: value.tolist() for name, value in engine.state().items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
@pytest.mark.parametrize(("what", "why"), [("inputs", "loss"), ("gradient", "gradient norm")])
def test_what_is_no_number_on_one_rank_is_left_out_by_all(
    stage: int | None, what: str, why: str
) -> None:
    found, without = (
        run_ranks(partial(walk_past, **{what: math.inf}), 2, stage, steps, 3)
        for steps in (range(STEPS), [0, 1, 2, *range(4, STEPS)])
    )
    for (results, end), (others, other_end) in zip(found, without, strict=True):
        skip = results[3].skip
        assert skip and skip.why == f"the {why} is not finite" and skip.in_a_row == 1
        assert skip.doc_ids == tuple(f"document-{slot}" for slot in range(SLOTS))
        assert results[:3] + results[4:] == others
        assert end == other_end and end.get("updates", STEPS - 1) == STEPS - 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_a_run_whose_first_update_is_left_out_can_be_saved_and_goes_on(stage: int | None) -> None:
    (((result,), first), (_, second)) = run_ranks(
        partial(walk_past, inputs=math.inf), 2, stage, [0], 0
    )
    assert result.skip and first["updates"] == 0
    untrained = {n: v.tolist() for n, v in ToyModel().state_dict().items()}
    assert {n: (first | second)[f"weight/{n}"] for n in untrained} == untrained
    curve, end = walk_on(2, stage, 1, 3, first | second)
    assert end["updates"] == 2 and all(math.isfinite(norm) for _, norm in curve)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_a_spike_is_left_out_by_all(stage: int | None) -> None:
    bad, last = MIN_HISTORY + 3, MIN_HISTORY + 6
    found, without = (
        run_ranks(partial(walk_past, inputs=1e4), 2, stage, steps, bad)
        for steps in (range(last), [n for n in range(last) if n != bad])
    )
    for (results, _), (others, _) in zip(found, without, strict=True):
        assert [n for n, result in enumerate(results) if result.skip] == [bad]
        assert "a spike: the" in str(results[bad].skip)
        assert results[:bad] + results[bad + 1 :] == others


def test_a_loss_without_targets_is_not_told_as_zero() -> None:
    engine = TorchEngine(ToyModel(), OPTIMIZER, WEIGHTS, World(), seed=1)
    (first, *_) = micro_batches(0, World())
    only_red = Toy(first.slot, first.inputs[:1], first.labels[:1])
    assert only_red.counts == {"red": 1, "blue": 0}
    result = engine.step([only_red], 0, lr=1e-2)
    assert set(result.losses) == {"red"}
    assert result.skip is None


def test_a_loss_that_is_no_number_leaves_the_weights_alone() -> None:
    engine = TorchEngine(ToyModel(), OPTIMIZER, WEIGHTS, World(), seed=1)
    before = {name: value.clone() for name, value in engine.weights().items()}
    bad = [Toy(b.slot, b.inputs * float("nan"), b.labels) for b in micro_batches(0, World())]
    results = [engine.step(bad, step, lr=1e-2) for step in range(3)]
    assert [result.skip.in_a_row for result in results if result.skip] == [1, 2, 3]
    assert all(torch.equal(value, before[name]) for name, value in engine.weights().items())


def test_rows_beside_the_weights_are_left_alone_too() -> None:
    rows = TableRows([3], 2, World(), OPTIMIZER, seed=0)
    engine = TorchEngine(ToyModel(), OPTIMIZER, WEIGHTS, World(), 1, rows)
    before = rows.weight.clone()
    bad = [Toy(b.slot, b.inputs * float("nan"), b.labels) for b in micro_batches(0, World())]
    for batches, moves in ((bad, False), (micro_batches(1, World()), True)):
        rows.gradient.fill_(1.0)  # what the step has gathered
        engine.step(batches, 0, lr=1e-2)
        assert torch.equal(rows.weight, before) != moves
        assert not rows.gradient.any(), "or the next step would add to it"


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(peak_lr=1.0, warmup_steps=10, final_lr_share=0.1)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0) and rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


def test_the_encoder_waits_for_the_heads_and_then_learns_at_its_share_of_their_rate() -> None:
    config = OptimizerConfig(warmup_steps=4, encoder_lr_ratio=0.5, encoder_frozen_steps=3)
    groups = [{"encoder": True}, {"encoder": False}]
    rates = []
    for step in range(9):
        set_learning_rates(groups, config, step, lr=1.0)
        assert groups[1]["lr"] == 1.0
        rates.append(groups[0]["lr"])
    assert rates == [0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    set_learning_rates(groups, OptimizerConfig(warmup_steps=4), 0, lr=0.25)
    assert [group["lr"] for group in groups] == [0.25, 0.25]


def moved_parts(world: World, stage: int | None) -> list[list[str]]:
    """Parts of the model that are not as they began, after each of three steps."""
    engine, before = toy_engine(world, stage), ToyModel().state_dict()
    found = []
    for step in range(3):
        engine.step(micro_batches(step, world), step, lr=1e-2)
        after = engine.weights()
        moved = {
            name.split(".")[0] for name in before if not torch.equal(after[name], before[name])
        }
        found.append(sorted(moved))
    return found


FROZEN_FOR_TWO_STEPS = [["blue", "red"], ["blue", "red"], ["bert", "blue", "red"]]


def test_a_frozen_encoder_stays_as_it_is_to_the_last_bit() -> None:
    assert moved_parts(World(), None) == FROZEN_FOR_TWO_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_frozen_encoder_stays_as_it_is_at_every_stage(stage: int) -> None:
    assert run_ranks(moved_parts, 2, stage) == [FROZEN_FOR_TWO_STEPS] * 2


def test_a_lock_of_a_killed_build_ends_the_run_and_does_not_hang_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(OPS_FOLDER_VARIABLE, "so that what is set meanwhile is undone")
    monkeypatch.delenv(OPS_FOLDER_VARIABLE)
    deepspeed = import_deepspeed(torch.device("cpu"))
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
    folder = Path(os.environ[OPS_FOLDER_VARIABLE])
    assert folder.parent == tmp_path / "torch_extensions" and torch.__version__ in folder.name

    lock, source = folder / "some_op" / "lock", folder / "some_op" / "op.cpp"
    lock.parent.mkdir(parents=True)
    lock.touch(), source.touch()
    old = time.time() - 2 * STALE_AFTER_S
    os.utime(lock, (old, old))
    assert not list(stale_locks(folder)), "a build that still writes"
    os.utime(source, (old, old))
    with lock.open():
        assert not list(stale_locks(folder)), "a long build that still has it open"
    with pytest.raises(ValueError, match=f"{re.escape(str(lock))}: left 20 minutes .*; remove it"):
        import_deepspeed(torch.device("cpu"))
