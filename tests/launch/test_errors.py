"""How a command ends: one line and an exit code, whoever raised; and the traceback on demand."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from lxml import etree

import embre
from embre import faults
from embre.config import LaunchConfig, read_values
from embre.interrupts import Interrupted, StoppedEarly
from embre.launch.errors import RunFailed, exit_code_and_text, exit_on_error
from embre.object_store import StoreFailed
from embre.refused import Refused
from embre.workers import OneProcess, Processes
from tools.shard_pubtator import main as shard_pubtator


def raised(function, *given: object) -> Exception:  # noqa: ANN001
    with pytest.raises(Exception) as found:
        function(*given)
    return found.value


def a_full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard.tar")


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_one_line_and_its_traceback_stands_above_on_demand(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMBRE_DEBUG", "1" if debug else "")
    with pytest.raises(SystemExit) as ended, exit_on_error():
        faults.arm("step:7", Path(), 0)
    *above, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: 'step:7' is not a fault; write name:n")
    assert any("in arm" in text for text in above) == debug and bool(above) == debug


def test_a_note_on_an_error_stands_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = RunFailed("small: a bad shard")
    error.add_note("traceback in runs/small/failures/attempt-1-rank-0.txt")
    with pytest.raises(SystemExit), exit_on_error():
        raise error
    told = "error: small: a bad shard; traceback in runs/small/failures/attempt-1-rank-0.txt\n"
    assert capsys.readouterr().err == told


def test_a_run_that_was_stopped_did_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise StoppedEarly("small: stopped while Ray started")
    told = "small: stopped while Ray started; run the same command again to resume\n"
    assert (ended.value.code, capsys.readouterr().err) == (143, told)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (Refused("train.steps: too few"), True),
        (FileNotFoundError(errno.ENOENT, "", "backbone"), True),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE), "shards"), False),
        (RunFailed("a rank was lost"), False),
    ],
)
def test_only_what_is_refused_again_leaves_a_note(
    error: Exception, final: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBRE_REFUSED_NOTE", str(tmp_path / "note"))
    with pytest.raises(SystemExit), exit_on_error():
        raise error
    assert (tmp_path / "note").exists() == final


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_error():
        read_values("no\n\x1b[2J.yaml")
    assert capsys.readouterr().err.startswith("error: no \\x1b[2J.yaml: no such config")


def test_the_exit_code_says_whose_fault_it_is(tmp_path: Path) -> None:
    def code_and_text(error: Exception) -> tuple[int, str]:
        found = exit_code_and_text(error)
        assert found is not None
        return found

    # What is not raised for people is no wrong request, though it is a ValueError too.
    for foreign in (
        raised(np.concatenate, [np.zeros(2), np.zeros((3, 3))]),
        raised(np.add, np.zeros(2), np.zeros(3)),
        raised(lambda: np.zeros(2) + np.zeros(3)),
        raised(int, "x"),
        raised(LaunchConfig.model_validate, {"workers": 0}),
    ):
        code, text = code_and_text(foreign)
        assert code == 1 and text.endswith("EMBRE_DEBUG=1 shows where")
    assert code_and_text(raised(Path("none").read_text))[0] == 2
    assert "free space" in code_and_text(raised(a_full_disk))[1]
    assert code_and_text(StoreFailed("503"))[0] == 1
    assert code_and_text(PermissionError("403"))[0] == 2
    assert code_and_text(Interrupted("saved"))[0] == 143
    assert code_and_text(RunFailed("failed"))[0] == code_and_text(ZeroDivisionError("0"))[0] == 1
    for passes in (typer.Exit(7), typer.BadParameter("which"), KeyError("a mistake of ours")):
        assert exit_code_and_text(passes) is None


@pytest.mark.parametrize(
    "workers", [OneProcess(), Processes(2, "embre.faults")], ids=["one", "two"]
)
def test_a_wrong_request_is_known_as_one_whoever_found_it(workers: OneProcess | Processes) -> None:
    with workers:
        error = raised(list, workers.run(faults.arm, [("step:7", Path(), 0)]))
    found = exit_code_and_text(error)
    assert found is not None and found[0] == 2


@pytest.mark.parametrize(
    ("function", "given", "kind"),
    [(int, "x", "ValueError"), (etree.fromstring, "<a>", "XMLSyntaxError")],
)
def test_what_a_library_raises_in_another_process_is_no_wrong_request(
    function: Callable, given: str, kind: str
) -> None:
    with Processes(2, "embre.faults") as workers:
        error = raised(list, workers.run(function, [(given,)]))
    found = exit_code_and_text(error)
    assert found is not None and found[0] == 1 and found[1].startswith(kind)


def test_a_fault_without_a_folder_for_its_mark_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMBRE_FAULT", "written:1:raise")
    monkeypatch.delenv("EMBRE_FAULT_FOLDER", raising=False)
    with pytest.raises(SystemExit) as ended:
        shard_pubtator([], tmp_path)
    assert ended.value.code == 2 and "set EMBRE_FAULT_FOLDER too" in capsys.readouterr().err


def test_code_behind_a_link_is_ours(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(embre.__file__).parents[1])
    code = "from embre.launch.errors import exit_on_error\n"
    code += "from embre import faults\nfrom pathlib import Path\n"
    code += "with exit_on_error(): faults.arm('step:7', Path(), 0)"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "link")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=tmp_path)
    assert done.returncode == 2
