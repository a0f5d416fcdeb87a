"""Videos and labels → tar shards and their index: atomic, verified, resumable.

    scan ──▶ splits ──▶ shards of about `shard_bytes` ──▶ for each video: read, decode once, check labels
                                                     └──▶ tar ──▶ read back and compare ──▶ rows
    last of all: index.parquet and dataset.json, and the new split takes the place of the old one (see `places`)

A kill leaves the old shards or the new ones. Which source goes into which shard follows from the sources alone, and a
shard's rows carry a fingerprint of its sources. So a second call, or a call after a kill, packs only what is not there
yet.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from tqdm import tqdm

from wildstream.errors import ConfigError, SampleError, VideoError
from wildstream.shards.assignment import assign, choose_timed
from wildstream.shards.copies import leave_out_copies
from wildstream.shards.encoders import Transcode
from wildstream.shards.formats import (
    AUTO,
    Format,
    Refusal,
    Scan,
    Source,
    get_format,
    recognise_format,
    select_splits,
    tidy,
)
from wildstream.shards.index_schema import DatasetInfo, make_table, write_table
from wildstream.shards.ingest import Sample, ingest
from wildstream.shards.pack_report import (
    REPORT_NAME,
    PackReport,
    damaged_of,
    effect_of,
    refusals_of,
    shortened_of,
    tellings_of,
    write_report,
)
from wildstream.shards.places import Place, make_place, metadata_of, read_rows
from wildstream.shards.transcode import TranscodeEffect
from wildstream.storage import urls
from wildstream.storage.access import Storage

OnError = Literal["skip", "fail"]


@dataclass(frozen=True, slots=True)
class _Shard:
    """The sources that one shard is made of."""

    name: str
    sources: list[Source]
    timed: set[str]
    """Keys of the videos whose decoding is timed."""
    fingerprint: str


def pack(
    source: str | Path,
    out: str | Path,
    *,
    format: str | Format = AUTO,
    format_options: Mapping[str, object] | None = None,
    splits: Sequence[str] | None = None,
    shard_bytes: int = 512 << 20,
    workers: int | None = None,
    on_error: OnError = "skip",
    transcode: Transcode | None = None,
    progress: bool = True,
    storage: Storage | None = None,
) -> PackReport:
    """Pack labelled videos into WebDataset shards, a folder per split.

    Args:
        source: Folder of videos, or images, and labels.
        out: Folder that will hold a folder per split, and pack-report.json; or a URL such as s3://bucket/shards, where
            each shard goes when it is complete.
        format: Its layout: a name out of `wildstream.shards.formats.FORMATS`, or "auto", which looks.
        format_options: Options of the layout by name, such as subset="asl100" of "wlasl".
        splits: Splits to pack; all by default. A source without split folders is one split, named by this (or "all").
        shard_bytes: Videos are put into one shard until it would be larger than this; re-encoded ones count with the
            size that they had.
        workers: Threads that decode and check videos; the number of cores by default.
        on_error: "skip" leaves a refused video out and names it in the report, as it does one that is packed although
            some frames of it do not decode; "fail" raises at the first of either.
        transcode: How to re-encode each video; by default they are packed as they are.
        progress: Show a progress bar on stderr.
        storage: Writes to object storage; one without options by default.

    Of copies of one file in a split, with the same labels, the first is packed; where their labels differ, none is.

    A split all of whose videos are refused is not written; one that was there before stays.

    Raises:
        ConfigError: An option is out of range, or a split does not exist.
        FormatError: The source is not in this layout; or, with "auto", in none that is known, or in several.
        SampleError: With on_error="fail", the first refused video; shards that were finished before stay.
        StorageError: Object storage cannot be read or written; a second call goes on where this one ended.
    """
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes={shard_bytes} must be positive.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers} must be at least 1.")
    if on_error not in ("skip", "fail"):
        raise ConfigError(f"on_error={on_error!r} is not known. Take one of skip, fail.")
    root, storage = Path(source), storage or Storage()
    report = PackReport()
    if isinstance(format, str) and format == AUTO:
        format, report.recognised_by = recognise_format(root, format_options)
    layout = get_format(format, format_options) if isinstance(format, str) else format
    report.format = layout.name
    scan = layout.scan(root) if splits is None else select_splits(layout.scan(root), splits)
    tidy(scan, root)
    report.categories = scan.categories
    report.leaks = leave_out_copies(scan, root, workers=workers or os.cpu_count() or 1, progress=progress)
    if not urls.is_remote(out):
        urls.local_path(out).mkdir(parents=True, exist_ok=True)
    report.refused, report.unused = list(scan.refused), list(scan.unused)
    packer = _Packer(root, layout, scan.categories, shard_bytes, workers or os.cpu_count() or 1, on_error, transcode)
    if on_error == "fail" and scan.refused:
        raise SampleError(f"{scan.refused[0].path}: {scan.refused[0].reason}")
    with tqdm(total=len(scan.sources), desc="pack", unit="video", disable=not progress) as bar:
        for split in sorted({entry.split for entry in scan.sources}):
            packer.pack_split(split, scan, make_place(out, split, storage), report, bar)
    write_report(urls.join(out, REPORT_NAME), report, storage)
    return report


@dataclass(frozen=True, slots=True)
class _Packer:
    """Packs the splits of one source folder."""

    root: Path
    layout: Format
    categories: list[str]
    shard_bytes: int
    workers: int
    on_error: OnError
    transcode: Transcode | None

    def pack_split(self, split: str, scan: Scan, place: Place, report: PackReport, bar: tqdm[Any]) -> None:
        """Pack one split; shards that an earlier call made from the same sources are taken over."""
        shards = self._assign([entry for entry in scan.sources if entry.split == split], place)
        with place.locked():
            old = place.finished({shard.name: shard.fingerprint for shard in shards})
            if len(old) == len(shards) and place.is_intact([shard.name for shard in shards]):
                tables = [self._take_over(shard, old[shard.name], report, bar) for shard in shards]
            else:
                tables = [self._obtain(shard, old, place, report, bar) for shard in shards]
                if any(table.num_rows for table in tables):
                    place.publish(*self._finish(split, shards, tables))
                else:  # a split without videos is no use to anybody, and could replace a good one
                    shutil.rmtree(place.staging())
        report.packed[split] = sum(table.num_rows for table in tables)
        report.refused += [refusal for table in tables for refusal in refusals_of(table)]
        report.damaged += [entry for table in tables for entry in damaged_of(tellings_of(table), split)]
        report.shortened += [entry for table in tables for entry in shortened_of(tellings_of(table), split)]
        if self.transcode is not None:
            report.transcoded[split] = sum(map(effect_of, tables), TranscodeEffect())

    def _obtain(
        self, shard: _Shard, old: dict[str, pa.Table], place: Place, report: PackReport, bar: tqdm[Any]
    ) -> pa.Table:
        """Have one shard in the new packing, and its rows: left there by a killed call, taken over, or packed."""
        staging = place.staging()
        part = staging / f"{shard.name}.parquet"
        table = read_rows(part)
        if table is not None:
            metadata = metadata_of(table)
            if metadata.get("fingerprint") == shard.fingerprint and place.has(shard.name, metadata):
                return self._take_over(shard, table, report, bar)
        part.unlink(missing_ok=True)  # first, so that rows never lie beside a shard that they do not describe
        if shard.name not in old:
            table = self._pack_shard(staging, shard, bar)
            place.add(shard.name)
            write_table(part, table)
            return table
        place.take(shard.name)
        return self._take_over(shard, old[shard.name], report, bar)

    def _take_over(self, shard: _Shard, table: pa.Table, report: PackReport, bar: tqdm[Any]) -> pa.Table:
        """Count a shard that an earlier call packed; what that refused is refused still."""
        split = shard.sources[0].split
        if self.on_error == "fail" and (refused := refusals_of(table) + damaged_of(tellings_of(table), split)):
            raise SampleError(f"{refused[0].path}: {refused[0].reason}")
        report.reused[split] = report.reused.get(split, 0) + table.num_rows
        bar.update(len(shard.sources))
        return table

    def _finish(self, split: str, shards: list[_Shard], tables: list[pa.Table]) -> tuple[DatasetInfo, pa.Table]:
        """The index of a split, and what it means."""
        merged = pa.concat_tables(table.replace_schema_metadata(None) for table in tables).sort_by("key")
        metadata = {
            shard.name: json.dumps(metadata_of(table), sort_keys=True)
            for shard, table in zip(shards, tables, strict=True)
        }
        return self._info(split, merged, shards), merged.replace_schema_metadata(metadata)

    def _assign(self, sources: list[Source], place: Place) -> list[_Shard]:
        """The shards of a split, by the names that they have in its place."""
        groups = assign(
            sources,
            root=self.root,
            layout=self.layout,
            categories=self.categories,
            shard_bytes=self.shard_bytes,
            transcode=self.transcode,
        )
        timed = choose_timed([source.key for group, _ in groups for source in group])
        return [_Shard(place.shard_name(n, mark), group, timed, mark) for n, (group, mark) in enumerate(groups)]

    def _pack_shard(self, folder: Path, shard: _Shard, bar: tqdm[Any]) -> pa.Table:
        """Write one shard, complete or not at all; the rows that describe it."""
        temporary = folder / f".{shard.name}.tmp"
        rows: list[dict[str, Any]] = []
        refused: list[Refusal] = []
        effect = TranscodeEffect()
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for source, sample in self._checked(shard):
                bar.update()
                if isinstance(sample, SampleError):
                    refused.append(self._refuse(source, sample))
                    continue
                if self.on_error == "fail" and (damaged := damaged_of([sample.row], source.split)):
                    raise VideoError(f"{damaged[0].path}: {damaged[0].reason}")
                for extension, data in sample.members.items():
                    member = tarfile.TarInfo(f"{source.key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                rows.append({**sample.row, "shard": shard.name})
                effect += sample.effect or TranscodeEffect()
        _verify(temporary, rows)
        metadata = {
            "fingerprint": shard.fingerprint,
            "refused": json.dumps([asdict(entry) for entry in refused]),
            "bytes": _size(temporary),
        }
        if self.transcode is not None:
            metadata["transcoded"] = json.dumps(asdict(effect))
        table = make_table(rows, metadata)
        temporary.replace(folder / shard.name)
        return table

    def _checked(self, shard: _Shard) -> Iterator[tuple[Source, Sample | SampleError]]:
        """Read and check sources in parallel; results in order, and only a few of them in memory."""
        ahead, sources = 2 * self.workers, shard.sources
        with ThreadPoolExecutor(self.workers, "pack") as threads:
            pending = [threads.submit(self._ingest, source, shard.timed) for source in sources[:ahead]]
            for n, source in enumerate(sources):
                yield source, pending.pop(0).result()
                if n + ahead < len(sources):
                    pending.append(threads.submit(self._ingest, sources[n + ahead], shard.timed))

    def _ingest(self, source: Source, timed: set[str]) -> Sample | SampleError:
        """Read and check one source, and re-encode it if that is asked for."""
        return ingest(
            source,
            root=self.root,
            layout=self.layout,
            categories=self.categories,
            transcoding=self.transcode,
            measured=source.key in timed,
        )

    def _refuse(self, source: Source, error: SampleError) -> Refusal:
        """Note a refused video, or raise where one is one too many."""
        path = source.video.relative_to(self.root).as_posix()
        if self.on_error == "fail":
            raise type(error)(f"{path}: {error}") from error
        return Refusal(split=source.split, path=path, reason=str(error))

    def _info(self, split: str, table: pa.Table, shards: list[_Shard]) -> DatasetInfo:
        """What the index of one split means."""
        return DatasetInfo(
            categories=self.categories,
            task=self.layout.task,
            split=split,
            format=self.layout.name,
            num_videos=table.num_rows,
            num_frames=sum(table["num_frames"].to_pylist()),
            shards=[shard.name for shard in shards],
            packed_by=f"wildstream {version('wildstream')}",
            transcode=None if self.transcode is None else self.transcode.options(),
        )


def _size(path: Path) -> str:
    """Bytes of a file in digits, as metadata holds them; empty where there is no file."""
    return str(path.stat().st_size) if path.is_file() else ""


def _verify(path: Path, rows: list[dict[str, Any]]) -> None:
    """Read a shard back, compare its videos with their checksums, and note where each begins."""
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        for row in rows:
            member = members[f"{row['key']}.{row['extension']}"]
            stream = tar.extractfile(member)
            if stream is None or hashlib.sha256(stream.read()).hexdigest() != row["sha256"]:
                raise OSError(f"{path}: {member.name} reads back other than it was written; check disk and memory")
            row["offset"] = member.offset_data
