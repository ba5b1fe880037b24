"""The two models as MLflow serves them, asked in this process."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from embre.tracking import encoder_pyfunc
from embre.tracking.encoder_pyfunc import EncoderPyfunc
from embre.tracking.registry import EXAMPLE
from embre.tracking.relation_pyfunc import RelationPyfunc
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
