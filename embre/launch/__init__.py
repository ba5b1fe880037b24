"""How ranks come to be: a launcher starts them and hands each a job and its world.

A launcher is a function (recipe, job) that returns when the run is over and raises when it failed.
"""

from collections.abc import Callable

from embre.job import Job
from embre.launch.local import run_local
from embre.world import World

Recipe = Callable[[Job, World], None]


def _run_ray(recipe: Recipe, job: Job) -> None:
    from embre.launch.ray import run_ray  # ray is imported where it is asked for

    run_ray(recipe, job)


LAUNCHERS: dict[str, Callable[[Recipe, Job], None]] = {"local": run_local, "ray": _run_ray}
