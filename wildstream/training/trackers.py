"""Where figures go besides the run folder: Weights & Biases, TensorBoard, MLflow, all through Accelerate.

The run folder is the truth, and trackers mirror it. A run that was left and goes on is the same run for each of them.
"""

from __future__ import annotations

import netrc
import os
import re
import secrets
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from wildstream.config.train import TrainConfig
from wildstream.errors import EnvironmentProblem
from wildstream.storage import urls
from wildstream.training.checkpoints import MANIFEST_NAME, read_manifest

WANDB_ID_NAME, MLFLOW_ID_NAME, TENSORBOARD_NAME = "wandb-id", "mlflow-id", "tensorboard"


def check_trackers(config: TrainConfig) -> None:
    """Refuse trackers whose package is missing (EnvironmentProblem)."""
    for name, wanted in (("tensorboard", config.trainer.tensorboard), ("mlflow", config.trainer.mlflow is not None)):
        if wanted and find_spec(name) is None:
            raise EnvironmentProblem(
                f"trainer.{name} needs the package {name}, which is missing. Install it: pip install "
                f"'wildstream[{name}]'."
            )


def start_trackers(accelerator: Accelerator, run: Path, config: TrainConfig, *, goes_on: bool) -> None:
    """Start those that are configured, on the main process.

    Args:
        accelerator: Logs to them from now on.
        run: Folder of the run.
        config: All options; trackers show them.
        goes_on: Whether the run was begun before.

    Raises:
        EnvironmentProblem: One does not start.
    """
    options, flat = config.model_dump(mode="json"), dict(_flat(config.model_dump(mode="json")))
    mode = choose_wandb_mode(config.trainer.wandb)
    trackers: list[GeneralTracker] = []
    if mode != "disabled":
        trackers.append(_make_wandb(run, config, options, mode))
    if config.trainer.tensorboard:
        trackers.append(TensorBoardTracker(TENSORBOARD_NAME, str(run)))
    if config.trainer.mlflow is not None:
        trackers.append(_make_mlflow(run, config, config.trainer.mlflow))
    accelerator.log_with = trackers
    for tracker in trackers:
        try:
            tracker.start()
        except Exception as error:  # each has errors of its own, without a common kind
            raise EnvironmentProblem(
                f"trainer.{tracker.name}: it does not start: {_first_line(error)} "
                f"Mend that, or leave trainer.{tracker.name} out."
            ) from error
        if tracker.name != "wandb" and not goes_on:  # MLflow's parameters are written once, and W&B has them already
            tracker.store_init_configuration(flat)
    accelerator.trackers = trackers
    for tracker in trackers:
        if tracker.name == "mlflow":
            (run / MLFLOW_ID_NAME).write_text(str(tracker.tracker.info.run_id) + "\n", encoding="utf-8")


def log_artifacts(accelerator: Accelerator, run: Path, *, epochs: int) -> None:
    """Mirror the best checkpoint and the history of so many epochs to Weights & Biases, where it is on, as artifacts.

    Offline they are kept by reference, and go up with `wandb sync`.
    """
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            import wandb

            best = read_manifest(run / "best" / MANIFEST_NAME)
            facts = {"epoch": best.epoch, "commit": best.commit, "fingerprint": best.fingerprint}
            model = wandb.Artifact(artifact_name(f"{run.name}-best"), type="model", metadata=facts | best.metrics)
            # Nobody changes the folder any more, so that no second copy of the weights is needed.
            model.add_dir(str(run / "best"), policy="immutable")
            tracker.tracker.log_artifact(model, aliases=["best"])
            metrics = wandb.Artifact(
                artifact_name(f"{run.name}-history"), type="metrics", metadata=facts | {"epoch": epochs}
            )
            metrics.add_file(str(run / "history.jsonl"))
            tracker.tracker.log_artifact(metrics)


def artifact_name(name: str) -> str:
    """The same, in characters that Weights & Biases takes."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


def choose_wandb_mode(wanted: str) -> str:
    """The mode that `trainer.wandb` stands for: auto leaves it to WANDB_MODE, else to whether somebody is logged in."""
    if wanted != "auto":
        return wanted
    chosen = os.environ.get("WANDB_MODE")
    if chosen in ("online", "offline", "disabled"):
        return chosen
    return "online" if _is_logged_in() else "offline"


def tags(config: TrainConfig) -> dict[str, str]:
    """What people search runs by."""
    data, model = config.data, config.model
    return {
        "dataset": urls.redact(data.path).rstrip("/").rsplit("/", 1)[-1],
        "style": data.style if isinstance(data.style, str) else "custom",
        "model": model.backbone,
        "pooling": model.pooling,
        "classifier": model.classifier,
        "sampler": data.sampler,
    }


def _make_wandb(run: Path, config: TrainConfig, options: dict[str, Any], mode: str) -> WandBTracker:
    """Weights & Biases, which still has to be started; under one identity, however often the run is left."""
    known = run / WANDB_ID_NAME
    if not known.exists():
        known.write_text(secrets.token_hex(4), encoding="utf-8")
    return WandBTracker(
        config.trainer.project,
        name=run.name,
        id=known.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(run),
        mode=mode,
        config=options,
        tags=[f"{name}:{value}"[:64] for name, value in tags(config).items()],  # W&B takes no longer ones
        settings={"silent": True, "console": "off"},
    )


def _make_mlflow(run: Path, config: TrainConfig, uri: str) -> MLflowTracker:
    """MLflow, which still has to be started."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    known = run / MLFLOW_ID_NAME
    run_id = known.read_text(encoding="utf-8").strip() if known.exists() else None
    return MLflowTracker(config.trainer.project, run_id=run_id, run_name=run.name, tags=tags(config))


def _first_line(error: Exception) -> str:
    """What an error says, without addresses' secrets."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return urls.redact(line if line.endswith(".") else f"{line}.")


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Nested options as dotted names and plain values, which is all that some trackers take."""
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (str, int, float, bool)) else str(value)


def _is_logged_in() -> bool:
    """Whether Weights & Biases finds a key for the server in use; nothing is sent."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host in netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):  # no such file, or not one that wandb could read
        return False
