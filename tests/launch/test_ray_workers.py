"""What Ray is asked for; whole runs on its workers are tested where the work is."""

from typing import Any

import pytest

from embre.launch import ray_workers
from embre.launch.ray_workers import RayWorkers


class OneWorker:
    """As much of Ray as a run asks for, in this process; `options` are what a task was given."""

    def remote(self, **options: Any):
        self.options = options
        return lambda function: self.Task(function)

    class Task:
        def __init__(self, function):
            self.remote = function

    @staticmethod
    def cluster_resources() -> dict[str, float]:
        return {"CPU": 4.0, "GPU": 0.5}

    @staticmethod
    def wait(results: list) -> tuple[list, list]:
        return results[:1], results[1:]

    @staticmethod
    def get(result: Any) -> Any:
        return result


@pytest.mark.parametrize("gpus", [0, 0.25])
def test_a_process_is_used_again_on_a_gpu_too(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a task with a GPU Ray makes a process for each call, unless it is told otherwise."""
    ray = OneWorker()
    monkeypatch.setattr(ray_workers, "ray", ray)
    assert [*RayWorkers("auto", gpus).run(abs, ((-n,) for n in range(7)))] == [*range(7)]
    assert RayWorkers("auto", gpus).number == (2 if gpus else 4)
    assert ray.options == {"num_cpus": 1, "num_gpus": gpus, "max_retries": 3, "max_calls": 0}
