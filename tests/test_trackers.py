"""Trackers, the real ones: what Weights & Biases, TensorBoard and MLflow keep of a run, also of one that was left."""

import json
import math
import struct

import pytest
import yaml
from accelerate import Accelerator
from tiny import frames_shards, history, tiny_config, weights
from wandb.proto.wandb_internal_pb2 import Record

from wildstream.config.compose import compose_config
from wildstream.errors import ConfigError, EnvironmentProblem, Interrupted
from wildstream.training import trackers, trainer
from wildstream.training.interruption import Interruption
from wildstream.training.run import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return frames_shards(tmp_path_factory)


def leave_after(epochs, config):
    """Train and stop as by SIGTERM when so many epochs are over."""

    class Watch(Interruption):
        @property
        def came(self):
            done = config.trainer.out / "history.jsonl"
            return "SIGTERM" if done.exists() and len(done.read_text().splitlines()) >= epochs else None

        @came.setter
        def came(self, signal):
            pass

    with pytest.raises(Interrupted):
        train(config, interruption=Watch())


def wandb_records(run):
    """What an offline run wrote: LevelDB's log format (blocks of 32 KiB) behind seven bytes, with protobuf inside."""
    records = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        data, place, parts = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 2**15 - place % 2**15 < 7:
                place += 2**15 - place % 2**15
            _, length, kind = struct.unpack_from("<IHB", data, place)
            parts += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = Record()
                record.ParseFromString(parts)
                records, parts = [*records, record], b""
    return records


def test_wandb_offline_has_figures_tags_configuration_and_artifacts(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run", "trainer.wandb=offline", "trainer.epochs=2"))
    records = wandb_records(run)
    (began,) = [record.run for record in records if record.HasField("run")]
    assert began.display_name == "run"
    tags = {"dataset:tiny-shards", "style:custom", "model:test_byobnet", "pooling:mean", "classifier:linear"}
    assert set(began.tags) == {*tags, "sampler:shuffle"}
    assert "1e-3" in str(began.config) or "0.001" in str(began.config)
    logged = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [float(line["val/mAP"]) for line in logged] == [line["val"]["mAP"] for line in history(run)]
    assert all(
        {"train/waiting_for_data", "train/windows_per_second", "train/planned"} <= line.keys() for line in logged
    )
    artifacts = {record.artifact.type: record.artifact for record in records if record.HasField("artifact")}
    assert {entry.path for entry in artifacts["model"].manifest.contents} == {"manifest.json", "model.safetensors"}
    assert [entry.path for entry in artifacts["metrics"].manifest.contents] == ["history.jsonl"]
    kept = {entry.path: entry.local_path for entry in artifacts["model"].manifest.contents}
    assert kept["model.safetensors"] == str(run / "best" / "model.safetensors")  # no second copy


def test_the_artifact_of_the_best_checkpoint_has_its_epoch_and_figures(shards, tmp_path, monkeypatch):
    falling = iter([2.0, 1.0])
    monkeypatch.setattr(trainer, "score", lambda figures, monitor: next(falling))
    run = train(tiny_config(shards, tmp_path / "a run", "trainer.wandb=offline", "trainer.epochs=2"))
    best = json.loads((run / "best" / "manifest.json").read_text())
    assert best["epoch"] == 1
    artifacts = {record.artifact.type: record.artifact for record in wandb_records(run) if record.HasField("artifact")}
    assert artifacts["model"].name == "a_run-best"
    facts = json.loads(artifacts["model"].metadata)
    assert (facts["epoch"], facts["mAP"]) == (1, best["metrics"]["mAP"])
    assert json.loads(artifacts["metrics"].metadata)["epoch"] == 2


def test_tensorboard_has_each_epoch_once_though_the_run_was_left(shards, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ("trainer.tensorboard=true", "trainer.epochs=3", "trainer.resume=auto")
    leave_after(1, tiny_config(shards, tmp_path / "run", *options))
    run = train(tiny_config(shards, tmp_path / "run", *options))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/mAP")] == [
        (line["epoch"], pytest.approx(line["val"]["mAP"])) for line in history(run)
    ]
    (hparams,) = (run / "tensorboard").glob("*/hparams.yml")
    assert yaml.safe_load(hparams.read_text())["trainer.lr"] == 1e-3


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_mlflow_has_one_run_though_it_was_left(shards, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = (f"trainer.mlflow={uri}", "trainer.epochs=3", "trainer.resume=auto", "trainer.project=fish")
    leave_after(1, tiny_config(shards, tmp_path / "run", *options))
    run = train(tiny_config(shards, tmp_path / "run", *options))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("fish").experiment_id])
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.tags["model"] == "test_byobnet"
    assert found.data.params["trainer.lr"] == "0.001"
    figures = client.get_metric_history(found.info.run_id, "val/mAP")
    assert [(figure.step, figure.value) for figure in figures] == [
        (line["epoch"], line["val"]["mAP"]) for line in history(run)
    ]


def test_a_database_that_cannot_be_opened_is_named(shards, tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(EnvironmentProblem, match=r"trainer\.mlflow: it does not start: .*leave trainer\.mlflow out"):
        train(tiny_config(shards, tmp_path / "run", f"trainer.mlflow=sqlite:///{tmp_path}/mlflow.db"))


def test_an_address_with_a_login_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ConfigError, match=r"holds a login.*MLFLOW_TRACKING_USERNAME") as caught:
        compose_config([f"data.path={tmp_path}", "trainer.mlflow='https://me:hush@host'"])
    assert "hush" not in str(caught.value)
    for uri in ("postgresql://db/x?user=me&password=hush", "mysql://me:hu/sh@host/db"):
        with pytest.raises(ConfigError, match=r"holds a login or options") as caught:
            compose_config([f"data.path={tmp_path}", f"trainer.mlflow='{uri}'"])
        assert "hu" not in str(caught.value).split("which")[0]
    with pytest.raises(ConfigError, match=r"such as sqlite:///mlflow\.db"):
        compose_config([f"data.path={tmp_path}", "trainer.mlflow=mlruns"])


def test_a_missing_package_is_named_before_anything_is_written(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'wildstream\[tensorboard\]'"):
        train(tiny_config(shards, tmp_path / "run", "trainer.tensorboard=true"))
    assert not (tmp_path / "run").exists()


# --- checkpoints that are kept ----------------------------------------------------------------------------------------


def kept(run):
    return sorted(path.name for path in (run / "kept").glob("*"))


def best_epochs(run, count, monitor, sign=1):
    values = [
        (-sign * (line["val"][monitor] if line["val"][monitor] is not None else math.nan), line["epoch"])
        for line in history(run)
    ]
    return sorted(f"epoch_{epoch:03d}" for _, epoch in sorted(values)[:count])


@pytest.mark.parametrize(("monitor", "sign"), [("mAP", 1), ("loss", -1)])
def test_the_best_epochs_are_kept_and_no_others(shards, tmp_path, monitor, sign):
    options = ("trainer.keep=2", "trainer.epochs=5", "trainer.lr=0.05", f"trainer.monitor={monitor}")
    run = train(tiny_config(shards, tmp_path / "run", *options))
    assert kept(run) == best_epochs(run, 2, monitor, sign)
    (best,) = best_epochs(run, 1, monitor, sign)
    assert all((weights(run, f"kept/{best}")[name] == tensor).all() for name, tensor in weights(run, "best").items())


def test_nothing_is_kept_by_default(shards, tmp_path):
    assert not (train(tiny_config(shards, tmp_path / "run")) / "kept").exists()


def test_a_run_that_was_left_keeps_what_an_undisturbed_one_does(shards, tmp_path):
    options = ("trainer.keep=2", "trainer.epochs=5", "trainer.lr=0.05", "trainer.resume=auto")
    whole = train(tiny_config(shards, tmp_path / "whole", *options))
    leave_after(3, tiny_config(shards, tmp_path / "left", *options))
    (tmp_path / "left" / "kept" / "epoch_004").mkdir(parents=True)  # killed between this and last/
    source = next((tmp_path / "left" / "kept").glob("epoch_00[123]")) / "manifest.json"
    told = source.read_text().replace('"epoch": 1', '"epoch": 4').replace('"epoch": 2', '"epoch": 4')
    told = told.replace('"epoch": 3', '"epoch": 4')
    (tmp_path / "left" / "kept" / "epoch_004" / "manifest.json").write_text(told)
    left = train(tiny_config(shards, tmp_path / "left", *options))
    assert kept(left) == kept(whole) == best_epochs(whole, 2, "mAP")


def test_figures_that_are_not_defined_are_not_logged(shards, tmp_path, monkeypatch):
    logged, real = [], trainer.figures_of
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: logged.append(values))
    monkeypatch.setattr(trainer, "figures_of", lambda *given, **more: real(*given, **more) | {"undefined": math.nan})
    run = train(tiny_config(shards, tmp_path / "run"))
    assert history(run)[0]["val"]["undefined"] is None
    assert "val/undefined" not in logged[0]
    assert all(math.isfinite(value) for value in logged[0].values())
