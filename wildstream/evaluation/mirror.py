"""Results → an artifact of the training's run at Weights & Biases; the files on disk are the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wildstream.storage import urls
from wildstream.training.checkpoints import Manifest
from wildstream.training.trackers import WANDB_ID_NAME, artifact_name, choose_wandb_mode


def mirror_results(
    run: Path,
    files: Sequence[Path],
    manifest: Manifest,
    metrics: Mapping[str, float | None],
    *,
    mode: str | None = None,
) -> str | None:
    """Log results as an artifact of type `metrics`, under the identity of the run that training began.

    Args:
        run: Folder of the run.
        files: What the artifact holds; its name is that of the first.
        manifest: Of the checkpoint.
        metrics: Figures that the artifact is found by.
        mode: auto, online, offline or disabled; the training's by default.

    Returns:
        What became of it, for people; None where it is disabled, or the run never was at W&B. Offline it goes up with
        `wandb sync`. What W&B refuses is told and not raised: the results are written.
    """
    known = run / WANDB_ID_NAME
    mode = choose_wandb_mode(manifest.config.trainer.wandb if mode is None else mode)
    if mode == "disabled" or not known.is_file():
        return None
    import wandb

    name = artifact_name(f"{run.absolute().name}-evaluation-{files[0].stem}")
    facts: dict[str, Any] = {"epoch": manifest.epoch, "commit": manifest.commit, "fingerprint": manifest.fingerprint}
    try:
        with wandb.init(
            project=manifest.config.trainer.project,
            id=known.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(run),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        ) as tracked:
            artifact = wandb.Artifact(name, type="metrics", metadata=facts | dict(metrics))
            for file in files:
                artifact.add_file(str(file))
            tracked.log_artifact(artifact)
    except Exception as error:  # noqa: BLE001 - wandb has errors of its own, and those of its service, without a common kind
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return urls.redact(f"Weights & Biases did not take the results: {said}")
    return f"W&B: artifact {name} ({mode})"
