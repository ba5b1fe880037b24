"""Chooses where the calls of a command run: on this machine or on a Ray cluster."""

from contextlib import AbstractContextManager

from embre.workers import OneProcess, Processes, Workers


def make_workers(
    processes: int, module: str, ray: str | None, gpus: float = 0
) -> AbstractContextManager[Workers]:
    """Workers on the Ray cluster at address `ray`, each call with `gpus` GPUs; without `ray`, local
    `processes` that import `module` once, or this process alone if it is 1."""
    if ray is not None:
        from embre.launch.ray_workers import RayWorkers  # slow to import

        return RayWorkers(ray, gpus)
    return OneProcess() if processes == 1 else Processes(processes, module)
