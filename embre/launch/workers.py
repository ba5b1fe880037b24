"""Who does the work of a command that is cut into calls: this machine, or a Ray cluster."""

from contextlib import AbstractContextManager

from embre.workers import OneProcess, Processes, Workers


def make_workers(
    processes: int, module: str, ray: str | None, gpus: float = 0
) -> AbstractContextManager[Workers]:
    """The cluster at the address `ray`, each call with a share of a GPU; else so many processes,
    which import `module` once, or this one alone."""
    if ray is not None:
        from embre.launch.ray_workers import RayWorkers  # slow to import, and seldom wanted

        return RayWorkers(ray, gpus)
    return OneProcess() if processes == 1 else Processes(processes, module)
