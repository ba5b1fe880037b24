"""A URL as an output is refused, where a path of that name would be a folder `s3:` here."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from embre.cli.model_commands import evaluate, predict, report
from tools import hold_out_list, shard_pubtator


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (shard_pubtator.main, ["in.PubTator"]),
        (hold_out_list.main, ["in.PubTator"]),
        (predict, ["model", "in.PubTator"]),
        (evaluate, ["--gold", "in.PubTator", "--pred", "in.PubTator"]),
        (report, ["--pred", "in.PubTator"]),
    ],
)
def test_a_url_as_an_output_is_refused_with_a_remedy(
    command, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [*given, "--out", "s3://bucket/set"])
    assert result.exit_code == 2
    assert "s3://bucket/set" in result.output and "aws s3 sync" in result.output
    assert not list(tmp_path.iterdir())
