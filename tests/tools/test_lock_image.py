"""A locked package is the one file that pip takes in the image: the best wheel, or the source."""

from typing import Any

from tools.lock_image import line_of, tags_of_image


def file(name: str, sha256: str) -> dict[str, Any]:
    return {"url": f"https://files.example/{name}", "hashes": {"sha256": sha256}}


SOURCE = file("a-1.0.tar.gz", "50")
ELSEWHERE = file("a-1.0-cp311-cp311-macosx_11_0_arm64.whl", "0a")
OTHER_PYTHON = file("a-1.0-cp312-cp312-manylinux_2_28_x86_64.whl", "0b")
ANY = file("a-1.0-py3-none-any.whl", "a0")
OLD = file("a-1.0-cp311-cp311-manylinux2014_x86_64.whl", "b0")
BEST = file("a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "f0")


def line(*wheels: dict[str, Any]) -> str:
    package = {"name": "a", "version": "1.0", "sdist": SOURCE, "wheels": list(wheels)}
    return line_of(package, tags_of_image())


def test_the_wheel_that_fits_best_is_named_wherever_it_stands() -> None:
    wheels = [ELSEWHERE, ANY, BEST, OLD, OTHER_PYTHON]
    assert line(*wheels) == line(*reversed(wheels)) == "a==1.0 --hash=sha256:f0"
    assert line(ANY, OLD) == "a==1.0 --hash=sha256:b0"


def test_without_a_wheel_that_fits_it_is_the_source() -> None:
    assert line(ELSEWHERE, OTHER_PYTHON) == line() == "a==1.0 --hash=sha256:50"
