"""What every rank does before its recipe, and what it says when a GPU is too small for it."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from embre import watchdog
from embre.config import FinetuneConfig, PretrainConfig, check_config
from embre.job import Job
from embre.launch import rank
from embre.launch.errors import RunFailed
from embre.launch.rank import run_rank
from embre.tracking.endings import why_ended
from embre.tracking.events import write_event
from embre.world import World
from tests.launch.stand_ins import Nothing, config_of, recipe


@pytest.mark.parametrize(
    ("kind", "data", "remedy"),
    [
        (PretrainConfig, {"shards": "-"}, "encoder.activation_checkpointing=true"),
        (FinetuneConfig, {"train": "-", "dev": "-"}, "fewer data.passes_per_micro_batch"),
    ],
)
def test_too_little_memory_of_a_gpu_is_said_with_what_takes_less(
    tmp_path: Path, kind: Any, data: dict[str, str], remedy: str
) -> None:
    values = {"name": "small", "encoder": {"path": "-"}, "data": data, "train": {"steps": 1}}
    job = Job(check_config(kind, values, "test"), tmp_path, None)

    def recipe(job: Job, world: World) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    with pytest.raises(RunFailed, match=f"CUDA out of memory.*{remedy}"):
        run_rank(recipe, job, torch.device("cpu"), tmp_path)
    assert "CUDA out of memory" in why_ended(tmp_path, 1)


def test_a_device_that_does_not_work_leaves_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "set_device", broken)
    for step in (0, 3):
        write_event(tmp_path, "started", step, {})
    with pytest.raises(RuntimeError, match="CUDA error"):
        run_rank(recipe, Job(config_of("-"), tmp_path, None), torch.device("cuda", 0), tmp_path)
    assert "in prepare" in (tmp_path / "failures/attempt-3-rank-0.txt").read_text()


def test_all_ranks_name_their_tracebacks_as_rank_0_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SecondOfTwo(World):
        __slots__ = ()

        def all_gather(self, value: Any) -> list[Any]:
            assert value == "1.2", "what it finds itself"
            return ["1", value]

    def broken(job: Job, world: World) -> None:
        raise RuntimeError("so it is")

    # Rank 0 failed before this rank looked into the folder.
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures/attempt-1-rank-0.txt").touch()
    monkeypatch.setattr(rank, "current_world", lambda device: SecondOfTwo(rank=1))
    with pytest.raises(RuntimeError, match="so it is"):
        run_rank(broken, Job(config_of("-"), tmp_path, None), torch.device("cpu"), tmp_path)
    found = sorted(path.name for path in (tmp_path / "failures").iterdir())
    assert found == ["attempt-1-rank-0.txt", "attempt-1-rank-1.txt"]


def test_a_rank_whose_loader_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def end(why: str, stacks: Path, note: Callable[[str], None]) -> None:
        if not ended.is_set():
            note(why)
        ended.set()

    class Stalled(Nothing):
        given = 0

        def step(self) -> list[Any]:
            self.given += 1
            assert self.given != 3 or ended.wait(60)
            return []

    monkeypatch.setattr(watchdog, "_end", end)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.05)
    train = {"steps": 4, "save_every_steps": 4}
    config = config_of(str(tmp_path), train=train, launch={"step_timeout_s": 2})
    job = Job(config, tmp_path, None)
    run_rank(partial(recipe, loader=Stalled()), job, torch.device("cpu"), tmp_path)
    why = why_ended(tmp_path, 1)
    assert why.startswith("rank 0: hung in train.py:") and "after step 2; see stacks-0.txt" in why


def test_training_is_heard_of_after_each_step_validation_and_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    monkeypatch.setattr(watchdog, "report_step", heard.append)
    watchdog._progress.step = 7
    recipe(Job(config_of(str(tmp_path), steps=2), tmp_path, None), World())
    assert heard == [1, 1, 2, 2, 2], "the second is validated"
    assert watchdog._progress.step is None, "what comes after training may take its time"
