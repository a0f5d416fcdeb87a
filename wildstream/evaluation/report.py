"""An evaluation → one page for people, NAME.html, and its pictures as PNG in the folder NAME/.

The page holds everything: it can be sent by mail and opened without a network. Every number in it is one of NAME.json,
or counted from the same predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wildstream.evaluation.mistakes import Mistake, surest_mistakes
from wildstream.evaluation.report_pictures import (
    LevelResult,
    class_pictures,
    confusion_picture,
    precision_recall_picture,
    timeline_pictures,
    training_picture,
    window_spans,
)
from wildstream.evaluation.report_sections import (
    agreement_told,
    interval_of,
    intervals_told,
    optional_sections,
    shown,
)
from wildstream.evaluation.source import remove_page
from wildstream.pictures.clips import film_strips, running_numbers
from wildstream.pictures.page import Html, Page, Picture, Section, Tile, cards, fold, paragraph, show, table, verbatim
from wildstream.storage.urls import redact
from wildstream.training.checkpoints import Manifest
from wildstream.training.metrics import decide

if TYPE_CHECKING:
    from wildstream.shards.formats import Task
    from wildstream.stream.dataset import WindowDataset
    from wildstream.training.predict import Predictions

MISTAKES = 12
COLUMNS = {"average_precision": "average precision", "precision": "precision", "recall": "recall", "f1": "F1"}


def write_report(
    path: Path,
    content: Mapping[str, Any],
    predictions: Predictions,
    *,
    manifest: Manifest,
    dataset: WindowDataset,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page and its pictures; those of an earlier one go.

    Args:
        path: The page, ending in .html.
        content: The evaluation, as in its JSON.
        predictions: What it is of; of a hierarchy, of all levels side by side.
        manifest: What the model is.
        dataset: The windows, of which some are decoded to be shown.
        history: Lines of the run's history.jsonl.

    Raises:
        ShardError: A shard that is to be shown cannot be read.
    """
    page, pictures = make_report(content, predictions, manifest=manifest, dataset=dataset, history=history)
    remove_page(path)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page.render(), encoding="utf-8")
    temporary.replace(path)


def make_report(
    content: Mapping[str, Any],
    predictions: Predictions,
    *,
    manifest: Manifest,
    dataset: WindowDataset,
    history: Sequence[Mapping[str, Any]] = (),
) -> tuple[Page, list[Picture]]:
    """The page, and all pictures in it; arguments as those of `write_report`."""
    levels = _levels(content, predictions, manifest)
    sections, pictures = [], []
    for level in levels:
        parts, drawn = _level_sections(level)
        sections += parts
        pictures += drawn
    timelines, left_out = timeline_pictures(levels[0], dataset)
    note = f" {left_out:,} more videos, with fewer mistakes, are left out." if left_out else ""
    hatched = " Hatched: not labelled." if content.get("unlabelled") else ""
    words = (
        "Dark: what is there. Below it what was predicted: blue is right; orange is wrong; dark without anything below "
        f"was missed.{hatched} The videos with the largest share of windows with a mistake come first.{note}"
    )
    sections.append(Section(title="Over time", parts=[paragraph(words), *map(show, timelines)]))
    sections.append(_mistakes(levels[0], dataset))
    optional, drawn = optional_sections(content)
    sections += optional
    training = training_picture(history, monitor=manifest.config.trainer.monitor)
    if training is not None:
        sections.append(Section(title="Training", parts=[show(training)]))
    sections += [*_ledger(content), _configuration(manifest)]
    pictures += [*timelines, *drawn, *([training] if training else [])]
    told = [text for text in (intervals_told(content), agreement_told(content)) if text]
    page = Page(
        notes=told,
        title=f"{manifest.config.model.backbone} on {content['split']}",
        facts=_facts(content, predictions, manifest),
        tiles=_tiles(content, manifest.task),
        sections=sections,
    )
    return page, pictures


def _levels(content: Mapping[str, Any], predictions: Predictions, manifest: Manifest) -> list[LevelResult]:
    """What was found of each level; without a hierarchy of the only one."""
    intervals = (content.get("bootstrap") or {}).get("classes", {})
    if manifest.hierarchy is None:
        parts = {"": (content["classes"], predictions)}
    else:
        by_level = predictions.by_level(manifest.hierarchy)
        parts = {name: (content["levels"][name]["classes"], part) for name, part in by_level.items()}
    return [
        LevelResult(
            name=name,
            classes=classes,
            predictions=part,
            task=manifest.task,
            intervals=intervals if number == 0 else {},
        )
        for number, (name, (classes, part)) in enumerate(parts.items())
    ]


def _facts(content: Mapping[str, Any], predictions: Predictions, manifest: Manifest) -> list[tuple[str, str]]:
    """What the page is about."""
    videos, _ = predictions.videos
    checkpoint = f"{content.get('checkpoint', '')} (epoch {content.get('epoch', manifest.epoch)})"
    style = manifest.config.data.style
    partial = " with a label" if content.get("set") == "partial" else ""
    unlabelled = f"; {count:,} more are not labelled, and in no figure" if (count := content.get("unlabelled")) else ""
    return [
        ("split", str(content["split"])),
        ("shards", redact(str(content.get("data", "")))),
        ("checkpoint", checkpoint),
        ("windows", f"{len(predictions.keys):,}{partial} of {len(videos):,} videos{unlabelled}"),
        ("classes", f"{len(manifest.categories):,}, {manifest.task.replace('_', ' ')}"),
        ("style", style if isinstance(style, str) else "custom"),
    ]


def _tiles(content: Mapping[str, Any], task: Task) -> list[Tile]:
    """The figures that matter most."""
    metrics = content["metrics"]
    names = (
        {"top1": "top-1", "top1_per_class": "top-1, mean of classes", "top5": "top-5"} if task == "single_label" else {}
    )
    names |= {"mAP": "mAP", "f1_macro": "F1, mean of classes", "f1_micro": "F1, all decisions", "loss": "loss"}
    tiles = []
    for figure, name in names.items():
        if figure not in metrics or (task == "single_label" and figure == "f1_micro"):  # which is top-1
            continue
        # Of a hierarchy, intervals are of the first level, and the loss is of all.
        interval = None if figure == "loss" and "levels" in content else interval_of(content, figure)
        notes = [f"95%: {interval}"] if interval else []
        notes += [f"chance {shown(metrics['mAP_chance'])}"] if figure == "mAP" else []
        tiles.append(Tile(name=name, value=shown(metrics[figure]), note=", ".join(notes)))
    return tiles


def _level_sections(level: LevelResult) -> tuple[list[Section], list[Picture]]:
    """Classes, confusion, precision and recall of one level."""
    classes, confusion, curves = class_pictures(level), confusion_picture(level), precision_recall_picture(level)
    rows = [
        (
            name,
            f"{figures['windows']:,}",
            *(_with_interval(level, name, column, figures.get(column)) for column in ("chance", *COLUMNS)),
        )
        for name, figures in level.classes.items()
    ]
    whole = table(["class", "windows", "chance", *COLUMNS.values()], rows)
    of = f" ({level.name})" if level.name else ""
    sections = [
        Section(title=f"Classes{of}", parts=[*map(show, classes), whole]),
        Section(title=f"Confusion{of}", parts=[show(confusion)]),
        Section(title=f"Precision and recall{of}", parts=[show(curves)]),
    ]
    return sections, [*classes, confusion, curves]


def _with_interval(level: LevelResult, name: str, figure: str, value: float | None) -> str:
    """A figure of a class, with its interval where there is one."""
    interval = level.intervals.get(name, {}).get(figure)
    return shown(value) + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else "")


def _mistakes(level: LevelResult, dataset: WindowDataset) -> Section:
    """The mistakes that the model was surest of, as strips of frames."""
    title = "Most confident mistakes"
    mistakes = surest_mistakes(level.predictions, task=level.task, most=MISTAKES)
    if not mistakes:
        return Section(title=title, parts=[paragraph("None: every window is right.")])
    found = level.predictions
    keys = [found.keys[mistake.window] for mistake in mistakes]
    numbers = running_numbers(dataset, keys, found.starts[[mistake.window for mistake in mistakes]])
    strips = film_strips(dataset, numbers[numbers >= 0])
    items = [
        (strips.get(int(number)), *_told(level, mistake, dataset))
        for number, mistake in zip(numbers, mistakes, strict=True)
    ]
    words = (
        "Windows that the model was sure of, and wrong, the surest first: look whether the labels are right. Of each "
        "video only one mistake of a kind. The frames run from left to right."
    )
    if dataset.index.info.features is not None:
        words = "The model takes features, so there are no frames to show. Of each video only one mistake of a kind."
    return Section(title=title, parts=[paragraph(words), cards(items)])


def _told(level: LevelResult, mistake: Mistake, dataset: WindowDataset) -> tuple[str, list[tuple[str, str]]]:
    """The title of a mistake, and what to know of it."""
    found, row = level.predictions, mistake.window
    names = level.names
    truth = [names[number] for number in found.targets[row].nonzero()[0]]
    probability = float(found.probabilities[row, mistake.label])
    said = [names[number] for number in decide(found.probabilities[[row]], level.task)[0].nonzero()[0]]
    key, start = found.keys[row], int(found.starts[row])
    spans, _, unit = window_spans(dataset, dataset.index.keys.index(key), found.starts[[row]])
    at = f"{spans[0, 0]:.2f} s" if "seconds" in unit else f"frame {spans[0, 0]:.0f}"
    facts = [
        ("video", key),
        ("at", f"{at} (window from frame {start:,})"),
        ("is there", ", ".join(truth) or "nothing"),
        ("predicted", ", ".join(said) or "nothing"),
    ]
    if level.task == "single_label":
        own = float(found.probabilities[row, found.targets[row]].max(initial=0.0))
        title = f"{names[mistake.label]} ({probability:.1%}) in place of {', '.join(truth) or 'nothing'} ({own:.1%})"
    elif mistake.is_miss:
        title = f"{names[mistake.label]} missed ({probability:.1%})"
    else:
        title = f"{names[mistake.label]} ({probability:.1%}) is not there"
    return title, facts


def _ledger(content: Mapping[str, Any]) -> list[Section]:
    """What became of the windows, where some are missing."""
    ledger = content.get("ledger") or {}
    if not ledger.get("reasons"):
        return []
    rows = [(reason, shown(count)) for reason, count in ledger["reasons"].items()]
    words = "These windows did not decode; they are in no figure."
    return [Section(title="Skipped windows", parts=[paragraph(words), table(["reason", "windows"], rows)])]


def _configuration(manifest: Manifest) -> Section:
    """All options of the run, and what it ran with; nothing secret."""
    options = yaml.safe_dump(manifest.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    rows = [(name, version) for name, version in manifest.versions.items()]
    rows.append(("commit", manifest.commit or "–"))
    style = [(name, shown(value)) for name, value in manifest.style.items()]
    parts: list[Html] = [
        fold("All options of the training", verbatim(redact(options))),
        table(["sliding style", ""], [*style, ("size", " × ".join(map(str, manifest.size)))]),
        table(["version", ""], rows),
    ]
    return Section(title="Configuration", parts=parts)
