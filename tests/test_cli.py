"""The command line: exit codes, messages without tracebacks, and the same packing by either door."""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny import ROOT, frames_shards, frames_source, run_python, tiny_config, tiny_overrides

from wildstream import __version__, cli
from wildstream.cli import main
from wildstream.commands import parse_count, parse_size_option
from wildstream.config.compose import _options
from wildstream.config.train import TrainConfig
from wildstream.errors import ConfigError
from wildstream.sizes import parse_bytes
from wildstream.training.run import train

COMMANDS = ["pack", "evaluate", "doctor", "demo"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_source(tmp_path_factory)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    yield train(tiny_config(frames_shards(tmp_path_factory), tmp_path_factory.mktemp("run") / "run"))
    AcceleratorState._reset_state(reset_partial_state=True)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What argparse says when it refuses options, with exit code 2."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    return capsys.readouterr().err


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_tells_what_the_exit_codes_mean(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert cli.EXIT_CODES in text
    assert all(command in text for command in COMMANDS) or len(arguments) == 2


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"wildstream {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["pck"], "invalid choice: 'pck'"),
        (["pack", "a"], "the following arguments are required: OUT"),
        (["pack", "a", "b", "--format", "nope"], "invalid choice: 'nope'"),
        (["pack", "a", "b", "--form", "frames"], "--form is not an option; did you mean --format?"),
        (["pack", "a", "b", "--format", "frames", "--shard-bytes", "5X"], "'5X' is not a size. Write 512MiB"),
        (["pack", "a", "b", "--format", "frames", "--workers", "0"], "'0' must be a whole number of at least 1"),
        (["evaluate", "a", "--batch-size", "-1"], "'-1' must be a whole number of at least 1"),
        (["evaluate", "a", "--checkpoint", "first"], "checkpoint='first' is not known. Take one of best, last"),
        (["evaluate", "a", "--bogus"], "--bogus is not an option"),
        (["predict", "a", "b", "c", "--treshold", "0.5"], "--treshold is not an option; did you mean --threshold?"),
    ],
)
def test_wrong_options_are_refused_with_2(arguments, message, capsys):
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1 << 20), ("512MiB", 512 << 20), ("2GB", 2 * 10**9), ("1.5 k", 1500), ("64ki", 65536), ("1B", 1)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "0.5", "5X", "MiB", "1I", "1e9", "1 PiB", "1MiBs"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        parse_size_option(text)


def test_counts_are_whole_and_positive():
    assert parse_count("3") == 3
    for text in ("0", "-1", "1.5", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="whole number of at least 1"):
            parse_count(text)


# --- pack -------------------------------------------------------------------------------------------------------------


def test_packing_says_what_was_packed_and_the_second_time_that_it_was_there(source, tmp_path, capsys):
    arguments = ["pack", str(source), str(tmp_path), "--format", "frames", "--split", "test"]
    assert main(arguments) == 0
    assert f"test: 2 videos   {tmp_path / 'test'}" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "test: 2 videos (2 of them were there)" in capsys.readouterr().out


def test_refused_videos_are_named_and_the_exit_code_is_3(source, tmp_path, capsys):
    bad = shutil.copytree(source, tmp_path / "source")
    (bad / "test" / "v0" / "v0.mp4").write_bytes(b"no video")
    (bad / "test" / "lonely.tsv").write_text("0\t0\t0\n")
    out = tmp_path / "shards"
    assert main(["pack", str(bad), str(out), "--format", "frames"]) == 3
    said = capsys.readouterr()
    assert "refused  test/v0/v0.mp4: " in said.out
    assert "unused   test/lonely.tsv: has no video beside it" in said.out
    assert f"1 video was refused; see {out / 'pack-report.json'}" in said.err
    report = json.loads((out / "pack-report.json").read_text())
    assert [entry["path"] for entry in report["refused"]] == ["test/v0/v0.mp4"]


def test_of_many_refused_videos_the_first_are_printed_and_all_are_in_the_report(source, tmp_path, capsys):
    bad = shutil.copytree(source, tmp_path / "source")
    for number in range(25):
        (bad / "test" / f"x{number:02d}.tsv").write_text("0\t0\t0\n")
    assert main(["pack", str(bad), str(tmp_path / "shards"), "--format", "frames"]) == 0
    said = capsys.readouterr().out.splitlines()
    unused = [line for line in said if line.startswith("unused")]
    assert len(unused) == 21
    assert unused[-1] == f"unused   … and 5 more, see {tmp_path / 'shards' / 'pack-report.json'}"
    assert len(json.loads((tmp_path / "shards" / "pack-report.json").read_text())["unused"]) == 25


def test_a_video_can_fail_the_packing(source, tmp_path, capsys):
    bad = shutil.copytree(source, tmp_path / "source")
    (bad / "test" / "v0" / "v0.mp4").write_bytes(b"no video")
    arguments = ["pack", str(bad), str(tmp_path / "shards"), "--format", "frames", "--on-error", "fail"]
    assert main(arguments) == 1
    assert "v0.mp4" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["pack", str(source), str(tmp_path / "file"), "--format", "frames"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_the_tool_packs_what_the_command_packs(source, tmp_path, capsys):
    assert main(["pack", str(source), str(tmp_path / "a"), "--format", "frames"]) == 0
    by_tool = run_python(ROOT / "tools" / "pack_shards.py", source, tmp_path / "b", "--format", "frames")
    assert by_tool.returncode == 0, by_tool.stderr
    assert by_tool.stdout == capsys.readouterr().out.replace(str(tmp_path / "a"), str(tmp_path / "b"))
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*")}
    assert files == {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*")}
    for file in files:
        first, second = tmp_path / "a" / file, tmp_path / "b" / file
        assert first.is_dir() or first.read_bytes() == second.read_bytes(), file


def test_the_tool_says_what_is_wrong(tmp_path):
    done = run_python(ROOT / "tools" / "pack_shards.py", tmp_path / "nowhere", tmp_path, "--format", "frames")
    assert done.returncode == 1
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluating_prints_the_table_from_any_folder(run, tmp_path, monkeypatch, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "moved", "--checkpoint", "last", "--batch-size", "3"]) == 0
    out = capsys.readouterr().out
    assert "precision  recall" in out
    assert "report: moved/evaluation/test-last.json   predictions: test-last.parquet" in out
    assert (moved / "evaluation" / "test-last.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "/nowhere"], "ShardError: /nowhere is neither a checkpoint nor a finished run"),
        (["pack", "/nowhere", "/tmp/out", "--format", "videos"], "FormatError: /nowhere is not a folder"),
    ],
)
def test_failures_are_one_line_on_stderr_and_1(arguments, message, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_a_split_that_is_not_there_is_named(run, capsys):
    assert main(["evaluate", str(run), "--split", "tset"]) == 1
    assert "tset" in capsys.readouterr().err


# --- the other commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("missing", 0), ("problem", 1)])
def test_the_doctor_fails_where_training_is_not_possible(status, code, monkeypatch, capsys):
    from wildstream import doctor

    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.Finding("disk", status, "as it is")])
    assert main(["doctor"]) == code
    assert "disk" in capsys.readouterr().out


def test_the_demo_gets_its_folder(monkeypatch, tmp_path):
    from wildstream import demo

    seen = []
    monkeypatch.setattr(demo, "run_demo", lambda out, *, say: seen.append(out))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert seen == [tmp_path]


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyboardInterrupt(), "stopped\n"), (OSError(28, "No space left on device", "/x"), "OSError: /x: No space left")],
)
def test_interruptions_and_full_disks_are_told_without_a_traceback(error, message, monkeypatch, tmp_path, capsys):
    from wildstream import demo

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(message)


# --- train.py ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def train_script():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_helps_with_every_option(train_script, capsys):
    assert train_script.main(["--help"]) == 0
    text = capsys.readouterr().out
    for path, _ in _options(TrainConfig):
        assert f"  {path} " in text
    assert "trainer=debug|default" in text


def test_train_refuses_a_misspelt_option_before_it_looks_for_the_shards(train_script, tmp_path, capsys):
    assert train_script.main([f"data.path={tmp_path / 'nowhere'}", "trainer.epocs=3"]) == 1
    assert capsys.readouterr().err.startswith(
        "ConfigError: trainer.epocs is not an option. Did you mean trainer.epochs"
    )
    assert train_script.main([f"data.path={tmp_path / 'nowhere'}"]) == 1
    assert capsys.readouterr().err.startswith(f"ShardError: no dataset.json in {tmp_path / 'nowhere' / 'train'}")


def test_train_says_what_to_do_next_and_keeps_to_its_run_folder(tmp_path, tmp_path_factory):
    shards = frames_shards(tmp_path_factory)
    (tmp_path / "shards").symlink_to(shards)
    overrides = tiny_overrides(Path("shards"), Path("run"), "data.train_split=val", "data.val_split=test")
    done = run_python(ROOT / "train.py", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run: run   next: wildstream evaluate run --split test" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "shards"]
    assert f"path: {tmp_path}/shards\n" in (tmp_path / "run" / "config.yaml").read_text()
