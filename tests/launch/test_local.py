"""What the local launcher makes of a recipe that fails: the same as the one of Ray does."""

import errno
import os
from pathlib import Path

import pytest

from embre.config import PretrainConfig, check_config
from embre.interrupts import Interrupted
from embre.job import Job
from embre.launch.errors import RunFailed
from embre.launch.local import run_local
from embre.world import ALLOCATOR, GROWING, World

FULL = OSError(errno.ENOSPC, "No space left on device")


def job_in(folder: Path) -> Job:
    values = {
        "name": "small",
        "encoder": {"path": "-"},
        "data": {"shards": "-"},
        "train": {"steps": 1},
    }
    return Job(check_config(PretrainConfig, values, "test"), folder, None)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ValueError("train-000001.tar is damaged"), RunFailed, "small: train-000001.tar is damag"),
        (FULL, RunFailed, "small: .*No space left"),
        (Interrupted("stopped after step 3"), Interrupted, "stopped after step 3"),
        (KeyError("a bug"), KeyError, "a bug"),
    ],
)
def test_a_recipe_that_fails_is_a_run_that_failed_and_no_wrong_request(
    tmp_path: Path, error: Exception, raised: type[Exception], said: str
) -> None:
    def recipe(job: Job, world: World) -> None:
        raise error

    with pytest.raises(raised, match=said):
        run_local(recipe, job_in(tmp_path))


@pytest.mark.parametrize("given", [None, "max_split_size_mb:64"])
def test_memory_of_a_gpu_grows_where_it_lies_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setenv(ALLOCATOR, given or "so that what is set meanwhile is undone")
    if given is None:
        monkeypatch.delenv(ALLOCATOR)
    found = []
    run_local(lambda job, world: found.append(os.environ[ALLOCATOR]), job_in(tmp_path))
    assert found == [given or GROWING]
