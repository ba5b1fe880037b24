"""The two models as MLflow serves them, called in this process."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from embre.tracking import encoder_pyfunc, relation_pyfunc
from embre.tracking.encoder_pyfunc import EncoderPyfunc
from embre.tracking.registry import EXAMPLE
from embre.tracking.relation_pyfunc import RelationPyfunc
from embre.tracking.serving_device import serving_device
from tests.tracking.finished_runs import finished_pretraining, finished_run

TEXT = EXAMPLE[0]


@pytest.fixture(scope="module")
def relation_model(tmp_path_factory: pytest.TempPathFactory) -> RelationPyfunc:
    run = finished_run(tmp_path_factory.mktemp("relations"), "one", 0.5)
    found = RelationPyfunc()
    found.load_context(SimpleNamespace(artifacts={"model": str(run / "relation_model")}))
    return found


def test_a_mention_that_is_dropped_is_a_warning(
    relation_model: RelationPyfunc, caplog: pytest.LogCaptureFixture
) -> None:
    whole = relation_model.predict([TEXT])
    wrong = "1\t2\t9\tcell line/tissue\tCellLine\tCVCL_0030\n"
    with caplog.at_level(logging.WARNING):
        found = relation_model.predict([f"{TEXT.rstrip()}\n{wrong}\n"])
    assert found == whole and "mention/offset_mismatch input 0:" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("2|t|A\0B\n2|a|C\n", "document/unreadable input 0:"),
        ("1\tno line\n", "line/unreadable input 0:"),
    ],
)
def test_what_cannot_be_read_is_an_error(
    relation_model: RelationPyfunc, more: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        relation_model.predict([f"{TEXT.rstrip()}\n{more}"])


def test_many_texts_are_read_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_pretraining(tmp_path, "one", "a" * 64)
    model = EncoderPyfunc()
    model.load_context(SimpleNamespace(artifacts={"model": str(run / "encoder")}))
    texts = [f"braf causes melanoma {'in mice ' * n}" for n in range(5)]
    alone, at_once = model.predict(texts), []
    model.model.register_forward_hook(lambda *given: at_once.append(len(given[2][0])))
    monkeypatch.setattr(encoder_pyfunc, "TEXTS_AT_ONCE", 2)
    found = model.predict(texts)
    assert at_once == [2, 2, 1]
    assert [v for vector in found for v in vector] == pytest.approx(
        [v for vector in alone for v in vector], abs=1e-5
    )
    assert model.predict([]) == []


def test_a_served_model_runs_on_the_device_of_the_environment_else_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBRE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert serving_device().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert serving_device().type == "cuda"
    monkeypatch.setenv("EMBRE_DEVICE", "gpu")
    with pytest.raises(ValueError, match="EMBRE_DEVICE=gpu: give cpu, or cuda"):
        serving_device()
    monkeypatch.setenv("EMBRE_DEVICE", "meta")  # a device that every torch has
    run = finished_pretraining(tmp_path, "one", "a" * 64)
    encoder = EncoderPyfunc()
    encoder.load_context(SimpleNamespace(artifacts={"model": str(run / "encoder")}))
    assert encoder.model.device.type == "meta"
    devices: list[torch.device] = []
    monkeypatch.setattr(relation_pyfunc, "load_relation_model", lambda _, d: devices.append(d))
    RelationPyfunc().load_context(SimpleNamespace(artifacts={"model": "folder"}))
    assert devices == [torch.device("meta")]
