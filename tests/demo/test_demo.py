"""The demo as a newcomer runs it, but shorter: real Ray, real DeepSpeed, one worker killed."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from embre.cli import app as cli
from embre.corpora import read_documents
from embre.demo import run as demo
from embre.interrupts import Interrupted
from embre.launch.rank import FAULT
from embre.tally import Tally
from embre.tracking.events import read_events, write_event

CLEARLY_ABOVE = 1.5


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_walks_the_whole_way_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "STEPS", 100)
    monkeypatch.setattr(demo, "KILL_AT", 60)
    monkeypatch.setattr(demo, "FINETUNE_STEPS", 200)
    out = tmp_path / "demo"
    monkeypatch.setattr("sys.argv", ["embre", "demo", "--out", str(out)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    shown = capfd.readouterr()
    assert not done.value.code, shown

    runs = out / "runs"
    starts = [event["step"] for event in read_events(runs / "demo-encoder", "started")]
    assert starts == [0, 50], "killed once, gone on from a checkpoint"
    losses = [event["loss/token"] for event in read_events(runs / "demo-encoder", "step")]
    assert losses[-1] < losses[0]

    scores = json.loads((runs / "demo-relations" / "scores.json").read_text())
    for metric, found in scores["dev"].items():
        assert found["f1"] > CLEARLY_ABOVE * scores["floor"][metric]["f1"], metric

    predicted = list(read_documents(out / "predicted" / "unread.PubTator", Tally()))
    assert any(doc.relations for doc in predicted)
    assert all(r.probability is not None for doc in predicted for r in doc.relations)
    assert "</html>" in (out / "predicted" / "report.html").read_text()
    assert "models:/embre-demo@champion" in shown.out


def test_a_stopped_demo_resumes_in_its_folder_and_in_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def stop(*_: Any) -> None:
        done.append("stopped")
        raise Interrupted("stopped after step 7 of 300, which is saved")

    def shard(inputs: list[str], *_: Any, **__: Any) -> Any:
        done.append(Path(inputs[0]).read_text()[:8])
        total = SimpleNamespace(documents=1, tokens=1)
        return SimpleNamespace(total=lambda: total, shards=[]), None

    monkeypatch.setattr(demo, "TRAIN_DOCUMENTS", 3)
    monkeypatch.setattr(demo, "DEV_DOCUMENTS", 2)
    monkeypatch.setattr(demo, "shard", shard)
    monkeypatch.setattr(demo, "pretrain_with_a_fault", stop)
    out, made = tmp_path / "demo", []
    for _ in range(2):
        with pytest.raises(Interrupted):
            demo.run_demo(out, 13, Console(quiet=True))
        made.append([(path.name, path.stat().st_mtime_ns) for path in sorted(out.iterdir())])
    assert made[0] == made[1], "sharding refuses inputs that changed"
    assert done == ["90000001", "stopped"] * 2
    with pytest.raises(FileExistsError, match="demo: a demo with another --seed; remove it or"):
        demo.run_demo(out, 14, Console(quiet=True))
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="not empty; remove it or give another folder"):
        demo.run_demo(tmp_path, 13, Console(quiet=True))


@pytest.mark.parametrize(
    ("done", "starts", "armed"),
    [(0, [0, 150], "step:180:kill9:1"), (100, [0, 100, 150], "step:80:kill9:1"), (300, [0], "")],
)
def test_the_worker_is_killed_at_its_step_after_a_stop_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    done: int,
    starts: list[int],
    armed: str,
) -> None:
    folder, found = tmp_path / "runs" / "demo-encoder", []

    def run_job(*_: Any) -> Path:
        found.append(os.environ.get(FAULT, ""))
        for step in starts:
            write_event(folder, "started", step, {})
        return folder

    monkeypatch.setattr(demo, "run_job", run_job)
    monkeypatch.delenv(FAULT, raising=False)
    demo.write_configs(tmp_path, 13)
    (folder / "checkpoints" / f"step-{done:09d}").mkdir(parents=True)
    if armed:
        assert demo.pretrain_with_a_fault(tmp_path, Console(quiet=True)) == folder
    else:
        with pytest.raises(RuntimeError, match="did not resume from a checkpoint"):
            demo.pretrain_with_a_fault(tmp_path, Console(quiet=True))
    assert found == [armed] and FAULT not in os.environ
