"""No secret gets into a job: neither by name, nor by value, nor by its looks."""

from pathlib import Path

import pytest
from job_secrets import PASSED, SECRET_NAME, environment, ray_token, refuse_secrets
from submit import prepare

CANARY = "canary-0123456789"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    ["AWS_REGION", "HTTPS_PROXY", "NCCL_IB_HCA", "FI_PROVIDER", "GLOO_SOCKET_IFNAME"],
)
def test_a_variable_on_the_list_is_taken_from_here(name: str) -> None:
    assert environment([name], {name: "eu-west-1"}) == {name: "eu-west-1"}


def test_a_proxy_with_a_password_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{CANARY}@proxy:3128")
    config = ROOT / "configs/pretrain/base.yaml"
    with pytest.raises(ValueError, match="--env HTTPS_PROXY") as refused:
        prepare("pretrain", config, [], "/mnt", ["HTTPS_PROXY"], tmp_path / "a.zip")
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("AWS_SECRET_ACCESS_KEY", "Secrets"),
        ("MLFLOW_TRACKING_PASSWORD", "Secrets"),
        ("RAY_AUTH_TOKEN", "Secrets"),
        ("NCCL_AUTH_TOKEN", "Secrets"),
        ("SHELL", "known are"),
        ("MY_NCCL_DEBUG", "known are"),
        ("AWS_REGION", "export it first"),
        ("AWS_REGION=eu-west-1", "the name alone"),
    ],
)
def test_other_names_are_refused_with_the_remedy(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        environment([name], {"AWS_SECRET_ACCESS_KEY": CANARY, "SHELL": "sh"})
    assert CANARY not in str(refused.value) and "eu-west-1" not in str(refused.value)


def test_no_name_on_the_list_is_that_of_a_secret() -> None:
    assert not [name for name in PASSED if SECRET_NAME.search(name)]


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter22@mlflow.example.org",
        "https://token@mlflow.example.org",
        "postgresql://me:hunter22@db/mlflow",
        "https://b.s3.amazonaws.com/x?X-Amz-Signature=abc",
        "key: AKIAABCDEFGHIJKLMNOP",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "ghp_abcdefghijklmnopqrstuvwxyz",
        "Authorization: Bearer abcdefghijklmnopqrst",
        "eyJhbGciOiJI.eyJzdWIiOiIx.abc",
        "-----BEGIN RSA PRIVATE KEY-----",
        f"note={CANARY}",
    ],
)
def test_what_looks_like_a_secret_or_is_one_is_refused_unseen(text: str) -> None:
    with pytest.raises(ValueError, match="^the overrides: .* is in it") as refused:
        refuse_secrets({"the overrides": text}, {"MY_API_KEY": CANARY})
    assert text not in str(refused.value) and CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "masking.objective=token losses.token=0.5 masking.token_rate=0.1",
        "data.shards=s3://bucket/shards@2026 tracking.uri=http://mlflow:5000",
        "data.shards=abfss://container@account.dfs.core.windows.net/shards",
        "storage=/mnt/embre/runs",
    ],
)
def test_ordinary_values_pass(text: str) -> None:
    refuse_secrets({"the overrides": text}, {"TOKENIZERS_PARALLELISM": "false", "MY_TOKEN": ""})
    with pytest.raises(ValueError, match="the overrides"):
        refuse_secrets({"the overrides": f"{text} note={CANARY}"}, {"MY_TOKEN": CANARY})


@pytest.mark.parametrize("name", ["SENDGRID_KEY", "db_pass", "AWS_ACCESS_KEY_ID", "MY_APIKEY"])
def test_a_name_that_ends_in_key_or_pass_is_that_of_a_secret(name: str) -> None:
    with pytest.raises(ValueError, match=f"the value of {name} is in it"):
        refuse_secrets({"the overrides": f"note={CANARY}"}, {name: CANARY})
    with pytest.raises(ValueError, match="Secrets"):
        environment([name], {name: CANARY})


@pytest.mark.parametrize("name", ["SSH_KEY_PATH", "SIGNING_KEY_FILE", "KEYBOARD", "BYPASS"])
def test_a_name_that_only_holds_the_word_is_none(name: str) -> None:
    refuse_secrets({"the overrides": "storage=/home/me/embre"}, {name: "/home/me/embre"})
    with pytest.raises(ValueError, match="known are"):  # and not: a secret
        environment([name], {name: "/home/me/embre"})


def test_the_token_is_found_as_ray_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ray_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of the home\n")
    (tmp_path / "file").write_text("of the file")
    assert ray_token({}) == "of the home"
    assert ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}) == "of the file"
    assert ray_token({"RAY_AUTH_TOKEN": "given"}) == "given"
    with pytest.raises(ValueError, match="token"):
        refuse_secrets({"x": "here is: of the home"}, {})
