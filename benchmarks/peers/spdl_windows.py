"""SPDL, window by window, in the threads of its pipeline.

Tried: a demuxer opened for each window, and kept for each video and thread (5 % less CPU, kept); one FFmpeg thread for
each (kept), and two; swscale's bilinear (kept) and bicubic (equal). As many threads decode as there are cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from benchmarks.footage import Address, Case
from benchmarks.peers.base import Clip, Delivered, Peer, as_frames, gather, read_videos, seconds
from wildstream.ffmpeg import ensure_ffmpeg


class Spdl(Peer):
    """A pipeline for each pass; videos' bytes are kept in memory, as for the others."""

    family = "SPDL per window"
    modules = ("spdl",)

    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Read the videos."""
        ensure_ffmpeg()
        self._case = case
        self._videos = read_videos(case)
        rest = set(wanted)
        self._order = wanted + [address for address in case.addresses() if address not in rest]
        self._local = threading.local()
        return {"order": "random", "threads": case.workers}

    def batches(self, number: int | None) -> Iterator[Delivered]:
        """Decode in threads, gather in one more."""
        from spdl.pipeline import PipelineBuilder

        case = self._case
        pipeline = (
            PipelineBuilder()
            .add_source(self._order[:number])
            .pipe(self._read, concurrency=case.workers)
            .aggregate(case.batch)
            .pipe(gather)
            .add_sink(2)
            .build(num_threads=case.workers + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def _read(self, address: Address) -> Clip:
        """Demux from the key frame on, decode, drop what comes before, convert and resize."""
        import spdl.io

        key, start = address
        case = self._case
        demuxers = self._local.__dict__.setdefault("demuxers", {})
        if key not in demuxers:
            demuxers[key] = spdl.io.Demuxer(self._videos[key])
        span = (seconds(start - 0.5), seconds(start + case.window - 0.5))
        packets = demuxers[key].demux_video(span)
        shape = {"scale_width": case.size, "scale_height": case.size, "scale_algo": "bilinear", "scale_mode": None}
        description = spdl.io.get_video_filter_desc(timestamp=span, **shape)
        frames = spdl.io.decode_packets(packets, filter_desc=description)
        return as_frames(spdl.io.to_torch(spdl.io.convert_frames(frames))), key, start
