"""Tar shards that others made → their index, where they lie; nothing is copied, nothing in them is run.

    shards ──▶ members (see `tar`) ──▶ samples ──▶ labels read ──▶ videos decoded once, in threads ──▶ rows
    last of all: the index and dataset.json, beside the shards or in a local folder that names them by path or URL

A sample is what WebDataset takes for one: neighbouring members whose names agree up to their first dot. It has a video
and `labels.npy` (frames × classes) or `cls` (one class number), or what names its class in `txt` or `json`; `json` is
looked at for what `pack` writes there.
Videos are examined exactly as `pack` does. A remote shard is read once, straight through, into a file without a name,
which is gone when it is closed or its process is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wildstream.errors import ConfigError, FormatError, SampleError, ShardError
from wildstream.shards.formats import Refusal, Task
from wildstream.shards.formats.listed import sorted_names
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import (
    DATASET_NAME,
    INDEX_NAME,
    DatasetInfo,
    make_table,
    with_version,
    write_info,
    write_table,
    write_text,
)
from wildstream.shards.ingest import examine, make_columns, make_row, name_damage
from wildstream.shards.members import Classes, Found, Labelled, find_samples, read_sample
from wildstream.shards.pack import OnError
from wildstream.shards.shard_files import find_shards, name_shards, opened
from wildstream.shards.tar import Bytes
from wildstream.storage import urls
from wildstream.storage.access import Storage

REPORT_NAME = "index-report.json"
_OWN_INDEX = re.compile(r"index-[0-9a-f]{12}\.parquet")


@dataclass(slots=True)
class IndexReport:
    """What was indexed and what was not; paths are those of shards, and of members in them."""

    folder: str
    """Path or URL of the folder that holds the index."""
    split: str
    indexed: int = 0
    """Videos in the index."""
    refused: list[Refusal] = field(default_factory=list)
    """Samples and members that are left out, and shards of which the rest cannot be read, and why."""
    shortened: list[Refusal] = field(default_factory=list)
    """Videos whose end is missing: fewer frames decode than their container promises."""
    damaged: list[Refusal] = field(default_factory=list)
    """Videos that are indexed although some frames do not decode, and which."""


def index_shards(
    shards: str | Path,
    *,
    out: str | Path | None = None,
    categories: Sequence[str] | None = None,
    task: Task | None = None,
    labels: str | None = None,
    split: str | None = None,
    workers: int | None = None,
    on_error: OnError = "skip",
    progress: bool = True,
    storage: Storage | None = None,
) -> IndexReport:
    """Index WebDataset shards that others made, where they lie.

    Args:
        shards: Path or URL of a folder, whose *.tar are taken in order of name; or a pattern of tars, such as
            "s3://bucket/train/{000000..000041}.tar".
        out: Local folder for the index, which then names each shard by its absolute path or URL; beside the shards by
            default.
        categories: Class names, in order of class number. By default those that `pack` wrote into the samples, else
            "0", "1", …
        task: What the labels mean: "multi_label" reads `labels.npy`, "single_label" `cls`. By default what the first
            sample has; all must have it.
        labels: What names the class of a video: "txt", or "json:FIELD" for a field of its json, such as
            "json:caption" in what video2dataset writes ("json:meta.label" for one within another). By default
            `labels.npy` or `cls`. Classes are ordered by name, unless `categories` says otherwise.
        split: Name of the split; that of the folder by default.
        workers: Threads that decode and check videos; the number of available cores by default.
        on_error: "skip" leaves out what cannot be indexed and names it in the report; "fail" raises at the first.
        progress: Show a progress bar on stderr.
        storage: Reads the shards, and writes beside remote ones; one without options by default.

    Returns:
        What was indexed and refused; index-report.json, beside the index, says the same. Where nothing could be
        indexed no index is written.

    Raises:
        ConfigError: An option is out of range, or the index cannot lie there.
        FormatError: There are no shards or no samples, or some samples have `labels.npy` and others `cls`.
        StorageError: A shard is missing or cannot be read.
        SampleError: With on_error="fail", the first that is refused.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers} must be at least 1.")
    for name, value, known in (
        ("on_error", on_error, ("skip", "fail")),
        ("task", task, ("multi_label", "single_label")),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{name}={value!r} is not known. Take one of {', '.join(known)}.")
    storage = storage or Storage()
    locations = find_shards(shards, storage)
    names, folder = name_shards(locations, out)
    split = split or locations[0].rpartition("/")[0].rpartition("/")[2] or "all"
    report = IndexReport(folder, split)
    place = _Beside(folder, storage)
    place.write_report(report)  # before hours of decoding: may it be written there?
    adopter = _Adopter(Classes(categories, task, labels), report, workers or len(os.sched_getaffinity(0)), on_error)
    form = "{l_bar}{bar}| {n:.1f}/{total} shards [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=len(locations), desc="index", disable=not progress, bar_format=form) as bar:
        for location, name in zip(locations, names, strict=True):
            with opened(location, storage) as data:
                adopter.adopt(data, name, bar)
    rows, classes = adopter.rows, adopter.classes
    report.indexed = len(rows)
    called = classes.names
    if classes.named_by and categories is None:
        called = sorted_names(called)
        _renumber(rows, [called.index(name) for name in classes.names])
    if rows:
        info = DatasetInfo(
            categories=called,
            task=classes.task,
            split=split,
            format="webdataset",
            num_videos=len(rows),
            num_frames=sum(row["num_frames"] for row in rows),
            shards=names,
            packed_by=f"wildstream {version('wildstream')}",
        )
        place.publish(info, rows)
    elif not report.refused:
        raise FormatError(f"no samples in the {len(names)} shards of {urls.redact(str(shards))}; they are empty.")
    place.write_report(report)
    return report


@dataclass(slots=True)
class _Adopter:
    """Makes rows of shards, one shard after the other."""

    classes: Classes
    report: IndexReport
    workers: int
    on_error: OnError
    rows: list[dict[str, Any]] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    """The shard that has a key."""

    def adopt(self, data: Bytes, shard: str, bar: tqdm[Any]) -> None:
        """Make rows of all samples of a shard; name what is refused."""
        begun = bar.n
        for found, row in self._examined(data, shard):
            if isinstance(row, SampleError):
                self._refuse(found, row)
            else:
                self.rows.append(row | {"shard": shard})
                self._note(row, found)
            bar.set_postfix_str(f"{len(self.rows):,} videos", refresh=False)
            bar.update(max(begun + found.stop / max(len(data), 1) - bar.n, 0))
        bar.update(begun + 1 - bar.n)

    def _examined(self, data: Bytes, shard: str) -> Iterator[tuple[Found, dict[str, Any] | SampleError]]:
        """Rows of the samples of a shard, in order; videos are decoded in parallel, a few ahead."""
        with ThreadPoolExecutor(self.workers, "index") as threads:
            pending = []
            for found in find_samples(data, shard):
                labelled = self._labelled(data, shard, found)
                done = labelled if isinstance(labelled, SampleError) else threads.submit(_make_row, data, labelled)
                pending.append((found, done))
                if len(pending) > 2 * self.workers:
                    yield _awaited(*pending.pop(0))
            while pending:
                yield _awaited(*pending.pop(0))

    def _labelled(self, data: Bytes, shard: str, found: Found) -> Labelled | SampleError:
        """A sample with its labels, or why it has none that can be used."""
        try:
            if found.flaw:
                raise SampleError(found.flaw)
            if found.key in self.taken:
                other = self.taken[found.key]
                raise SampleError(
                    f"its key {found.key!r} is taken in {other}; rename one, and put the members of each sample side "
                    "by side"
                )
            labelled = read_sample(data, found, self.classes)
        except SampleError as error:
            return error
        self.taken[found.key] = shard
        return labelled

    def _refuse(self, found: Found, error: SampleError) -> None:
        """Note what is left out, or raise where one is one too many."""
        if self.on_error == "fail":
            raise type(error)(f"{found.path}: {error}") from error
        self.report.refused.append(Refusal(split=self.report.split, path=found.path, reason=str(error)))

    def _note(self, row: dict[str, Any], found: Found) -> None:
        """Note what an indexed video lacks."""
        note = partial(Refusal, split=self.report.split, path=found.path)
        if row["lost"]:
            self.report.damaged.append(note(reason=name_damage(row["lost"], row["num_frames"])))
            if self.on_error == "fail":
                raise SampleError(f"{found.path}: {self.report.damaged[-1].reason}")
        if row["claimed_frames"] > row["num_frames"]:
            reason = "its container promises {claimed_frames:,} frames, the first {num_frames:,} are indexed"
            self.report.shortened.append(note(reason=reason.format_map(row)))


def _renumber(rows: list[dict[str, Any]], numbers: list[int]) -> None:
    """Give the classes of events other numbers: `numbers[old]`."""
    for row in rows:
        row["events"] = [{**event, "class": numbers[event["class"]]} for event in row["events"]]


def _awaited(found: Found, done: Any) -> tuple[Found, dict[str, Any] | SampleError]:  # noqa: ANN401 - or a future of it
    """What came of a sample, when it is there."""
    return found, done if isinstance(done, SampleError) else done.result()


def _make_row(data: Bytes, sample: Labelled) -> dict[str, Any] | SampleError:
    """Examine one video, as `ingest` does; its row of the index without its shard, or why there is none."""
    video = data[sample.video.offset : sample.video.offset + sample.video.size]
    packed = sample.packed
    if packed is not None and packed.sha256 != hashlib.sha256(video).hexdigest():
        return SampleError("its video is not the one that was packed (checksum in its json); restore the shard")
    try:
        facts, track = examine(video, sample.labels.track, counts_frames=sample.labels.counts_frames)
    except SampleError as error:
        return error
    row = make_row(
        video,
        facts,
        key=sample.found.key,
        extension=sample.extension,
        ctime=sample.video.mtime if packed is None else packed.ctime,
        source=sample.found.path if packed is None else packed.source,
    )
    if packed is not None and packed.claimed_frames is not None:
        row["claimed_frames"] = packed.claimed_frames  # by the video before it was re-encoded
    return row | make_columns(facts, track) | {"offset": sample.video.offset}


@dataclass(frozen=True, slots=True)
class _Beside:
    """The folder where an index goes; dataset.json, which makes it count, goes last."""

    folder: str
    storage: Storage

    def write_report(self, report: IndexReport) -> None:
        """Write index-report.json."""
        text = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
        if urls.is_remote(self.folder):
            self.storage.objects.write(urls.join(self.folder, REPORT_NAME), text.encode())
            return
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            write_text(Path(self.folder) / REPORT_NAME, text)
        except OSError as error:
            raise ConfigError(
                f"{self.folder} cannot be written to: {error.strerror}; give another folder as out=."
            ) from None

    def publish(self, info: DatasetInfo, rows: list[dict[str, Any]]) -> None:
        """Write the index and dataset.json."""
        table = make_table(rows)
        info = with_version(info, table)
        if not urls.is_remote(self.folder):
            folder = Path(self.folder)
            (folder / DATASET_NAME).unlink(missing_ok=True)  # it never lies beside an index that it does not describe
            write_table(folder / INDEX_NAME, table)
            write_info(folder, info)
            return
        before = self._index_before()
        with tempfile.TemporaryDirectory(prefix="wildstream-") as scratch:
            built = Path(scratch) / INDEX_NAME
            write_table(built, table)
            info = info.model_copy(
                update={"index": f"index-{hashlib.sha256(built.read_bytes()).hexdigest()[:12]}.parquet"}
            )
            self.storage.objects.write(urls.join(self.folder, info.index), built)
        dataset = (info.model_dump_json(indent=2) + "\n").encode()
        self.storage.objects.write(urls.join(self.folder, DATASET_NAME), dataset)
        if before != info.index and _OWN_INDEX.fullmatch(before):  # whatever dataset.json names is not deleted
            self.storage.objects.delete(urls.join(self.folder, before))

    def _index_before(self) -> str:
        """File name of the index that counts now; empty where there is none that can be read."""
        try:
            return open_index(self.folder, Storage(options=self.storage.options)).info.index
        except ShardError:
            return ""
