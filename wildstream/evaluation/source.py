"""What is evaluated, and where the results go: a run, one of its checkpoints, a checkpoint alone, or one at W&B.

    RUN                     RUN/best, or what `checkpoint` names             → RUN/evaluation/
    RUN/best, RUN/last      the same                                         → RUN/evaluation/
    RUN/kept/epoch_004      the same                                         → RUN/evaluation/
    CHECKPOINT              anywhere else, say moved to another machine      → CHECKPOINT-evaluation/, beside it
    wandb:E/P/NAME:ALIAS    downloaded to ./artifacts/NAME:vN                → ./artifacts/NAME:vN-evaluation/

A run's folder is known by its config.yaml.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from wildstream.errors import ConfigError, EnvironmentProblem
from wildstream.training.kept import KEPT_NAME, find_checkpoint, is_name, refuse_name
from wildstream.training.run import CONFIG_NAME
from wildstream.training.trackers import choose_wandb_mode

_ARTIFACT = re.compile(r"wandb:(?P<name>[^/:\s]+/[^/:\s]+/[^/:\s]+:[^/:\s]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that is to be evaluated."""

    folder: Path
    """The checkpoint."""
    name: str
    """best, last or epoch_NNN of a run; else the name of its folder."""
    results: Path
    """Folder for the results."""
    run: Path | None = None
    """The run that it belongs to."""

    def result_name(self, split: str, *, partial: bool, data: str | None) -> str:
        """Name of the results, without an ending; of another set, checkpoint or data than usual it says so.

        Args:
            split: Name of the split.
            partial: Whether only windows with a label count.
            data: What tells data apart that are not those of the training.
        """
        parts = [split, "partial" if partial else None]
        parts.append(self.name if self.run is not None and self.name != "best" else None)
        parts.append(None if data is None else f"on-{data}")
        return "-".join(part for part in parts if part is not None)


def find_source(given: str | Path, *, checkpoint: str | None = None, out: Path | None = None) -> Source:
    """Find a checkpoint; one at Weights & Biases is downloaded.

    Args:
        given: A run, a checkpoint, or wandb:ENTITY/PROJECT/NAME:ALIAS.
        checkpoint: Of a run, which: best (None), last, or epoch_NNN of those that trainer.keep kept.
        out: Folder for the results; as above by default.

    Raises:
        ConfigError: `checkpoint` is none, or names one of something that is one itself.
        ShardError: There is no such checkpoint.
        EnvironmentProblem: Weights & Biases does not give it.
    """
    if str(given).startswith("wandb:"):
        refuse_name(checkpoint, given)
        return _alone(_download(parse_artifact(str(given))), out)
    folder = find_checkpoint(given, checkpoint)
    run = _run_of(folder)
    return _alone(folder, out) if run is None else _of_run(run, folder, out)


def remove_page(page: Path) -> None:
    """Delete the page of an earlier evaluation of the same name, and its pictures: they tell of other results."""
    page.unlink(missing_ok=True)
    for picture in page.with_suffix("").glob("*.png"):
        picture.unlink()


def parse_artifact(text: str) -> str:
    """ENTITY/PROJECT/NAME:ALIAS of wandb:ENTITY/PROJECT/NAME:ALIAS; ConfigError where it is none."""
    found = _ARTIFACT.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no artifact. Write wandb:ENTITY/PROJECT/NAME:ALIAS, the alias as v3 or best.")
    return found["name"]


def _download(name: str) -> Path:
    """The folder that an artifact of Weights & Biases was downloaded to, once on each machine."""
    if choose_wandb_mode("auto") != "online":
        raise EnvironmentProblem(
            f"wandb:{name} lies at Weights & Biases, but nobody is logged in here, or WANDB_MODE says not to go there. "
            "Call `wandb login`, or copy the checkpoint and give its folder."
        )
    import wandb

    with PartialState().local_main_process_first():
        try:
            artifact = wandb.Api().artifact(name)
            if artifact.type == "model":
                return Path(artifact.download())
        except Exception as error:  # wandb raises its own errors, ValueError, and those of its HTTP client
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise EnvironmentProblem(
                f"wandb:{name} cannot be had: {said:.300} Mind name and alias, or copy the checkpoint and give its "
                "folder."
            ) from error
    raise ConfigError(f"wandb:{name} is of type {artifact.type!r}. Give an artifact of type 'model'.")


def _run_of(folder: Path) -> Path | None:
    """The run that a checkpoint lies in, or None; relative if the checkpoint is, as people gave it."""
    parent = folder.absolute().parent
    run = parent.parent if parent.name == KEPT_NAME else parent
    if not is_name(folder.absolute().name) or not (run / CONFIG_NAME).is_file():
        return None
    return run if folder.is_absolute() else Path(os.path.relpath(run))


def _of_run(run: Path, folder: Path, out: Path | None) -> Source:
    """A checkpoint of a run."""
    return Source(folder=folder, name=folder.absolute().name, results=out or run / "evaluation", run=run)


def _alone(folder: Path, out: Path | None) -> Source:
    """A checkpoint by itself."""
    home = folder.absolute() if folder.name in ("", "..") else folder
    return Source(folder=folder, name=home.name, results=out or home.with_name(f"{home.name}-evaluation"))
