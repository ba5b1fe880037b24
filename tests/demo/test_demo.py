"""The demo as a newcomer runs it: real Ray, real DeepSpeed, one worker killed on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embre.corpora import read_documents
from embre.tally import Tally
from embre.tracking import read_events

CLEARLY_ABOVE = 1.5


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_walks_the_whole_way_and_learns(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "embre", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    runs = out / "runs"
    starts = [event["step"] for event in read_events(runs / "demo-encoder", "started")]
    assert len(starts) == 2 and starts[1] > 0, "killed once, gone on from a checkpoint"
    losses = [event["loss/token"] for event in read_events(runs / "demo-encoder", "step")]
    assert losses[-1] < losses[0]

    scores = json.loads((runs / "demo-relations" / "scores.json").read_text())
    for metric, found in scores["dev"].items():
        assert found["f1"] > CLEARLY_ABOVE * scores["floor"][metric]["f1"], metric

    predicted = list(read_documents(out / "predicted" / "unread.PubTator", Tally()))
    assert any(doc.relations for doc in predicted)
    assert all(r.probability is not None for doc in predicted for r in doc.relations)
    assert "</html>" in (out / "predicted" / "report.html").read_text()
    assert "models:/embre-demo@champion" in done.stdout
