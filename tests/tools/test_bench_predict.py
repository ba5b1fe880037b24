"""The bench of prediction counts what is missing or twice, and a node's end costs nothing."""

from pathlib import Path

import pytest
from predict import Scene, build, check, finish, on_nodes, start


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return build(tmp_path_factory.mktemp("scene"), documents=60, files=12)


@pytest.fixture(scope="module")
def alone(scene: Scene) -> Path:
    """What one process made of it."""
    out = scene.inputs.parent / "alone"
    assert finish(start(scene, out)) > 0
    return out


@pytest.mark.slow
@pytest.mark.ray  # only for the scene, which takes longer to build than to check
def test_what_is_missing_or_twice_is_counted(scene: Scene, alone: Path, tmp_path: Path) -> None:
    found = check(scene, alone)
    assert (found["missing"], found["twice"], found["recorded"], found["left_behind"]) == (
        0,
    ) * 2 + (
        60,
        0,
    )
    for path in alone.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second, third, *_ = sorted(tmp_path.glob("*.PubTator"))
    second.write_bytes(second.read_bytes() + first.read_bytes())
    third.unlink()
    found = check(scene, tmp_path)
    assert (found["missing"], found["twice"]) == (5, 5)


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_dies_and_nothing_is_missing_or_twice(
    scene: Scene, alone: Path, tmp_path: Path
) -> None:
    found = on_nodes(scene, tmp_path / "out", alone, nodes=2, kill=True)
    assert (found["missing"], found["twice"], found["recorded"]) == (0, 0, 60)
    assert found["same"] and found["relations"] > 0
