"""The doctor tells what this machine can do, and no secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wildstream.doctor import Finding, accounts, is_able, render

DIAGNOSE = """
from wildstream.doctor import diagnose, is_able, render
findings = diagnose()
print(render(findings))
print(is_able(findings))
"""


def diagnose(home: Path, code: str = DIAGNOSE, **environment: str) -> str:
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE") if name in os.environ}
    settings = {"HOME": str(home), "PYTHONPATH": str(Path.cwd()), **keep, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def line(text: str, name: str) -> str:
    return next(row for row in text.splitlines() if row[9:].startswith(name))


def test_a_machine_that_can_train_and_its_secrets(tmp_path: Path) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIA-hush",
        "AWS_SECRET_ACCESS_KEY": "aws-hush",
        "GOOGLE_APPLICATION_CREDENTIALS": "/hush/key.json",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=hush",
        "WANDB_API_KEY": "wandb-hush",
    }
    text = diagnose(tmp_path, **secrets)
    assert text.splitlines()[-1] == "True"
    assert max(map(len, text.splitlines())) <= 80
    assert line(text, "Python").startswith("ok")
    assert "h264" in line(text, "decoders")
    assert line(text, "encoders").startswith("ok")
    assert "hush" not in text
    for name in secrets.keys() - {"AWS_SECRET_ACCESS_KEY"}:
        assert name in text


def test_credentials_are_found_by_the_name_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "NETRC",
        *(n for s in accounts.STORES.values() for n in s.variables),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert accounts.wandb_place() is None
    assert [accounts.store_places(scheme) for scheme in accounts.STORES] == [[], [], []]

    for store in accounts.STORES.values():
        (tmp_path / store.file).parent.mkdir(parents=True)
        (tmp_path / store.file).write_text("hush")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password hush\n")
    assert accounts.wandb_place() == "~/.netrc"
    assert accounts.store_places("s3://") == ["~/.aws/credentials"]
    assert accounts.store_places("gs://") == ["~/.config/gcloud/application_default_credentials.json"]
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert accounts.wandb_place() is None


def test_a_missing_package_and_ffmpeg_are_problems_with_remedies(tmp_path: Path) -> None:
    hide = """
import importlib.metadata
version = importlib.metadata.version
def hidden(name):
    if name == "webdataset": raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = hidden
"""
    text = diagnose(tmp_path, hide + DIAGNOSE, WILDSTREAM_FFMPEG="nowhere")
    assert text.splitlines()[-1] == "False"
    assert line(text, "webdataset").startswith("problem")
    assert line(text, "FFmpeg").startswith("problem")
    assert "make setup" in text
    assert "Not ready to train: see webdataset, FFmpeg" in text


def test_only_problems_keep_from_training() -> None:
    assert is_able([Finding("a", "ok", ""), Finding("b", "missing", "", "get it")])
    assert not is_able([Finding("a", "problem", "broken", "mend it")])


def test_long_details_are_wrapped_below_themselves() -> None:
    rows = render([Finding("disk", "problem", "word " * 30, "remedy " * 20)]).splitlines()
    assert max(map(len, rows)) <= 80
    assert rows[0].startswith("problem  disk  word")
    assert rows[1].startswith(" " * 15 + "word")
    assert any(row.startswith(" " * 15 + "-> remedy") for row in rows)
