"""This machine → findings about what WildStream can do on it: what is there, what is missing, how to get it.

Everything is tried rather than looked up: a tiny video is encoded and decoded, CUDA decodes it if there is a GPU.
Nothing is sent over the network, and no credential's value is read or shown, only the name of the place that holds one.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wildstream.doctor import accounts
from wildstream.errors import FFmpegError
from wildstream.ffmpeg import ensure_ffmpeg

Status = Literal["ok", "missing", "problem"]

_GIB = 2**30
_REQUIRED = ("torch", "torchvision", "torchcodec", "webdataset", "numpy", "timm", "accelerate", "wandb")
_LEAST_DISK_GIB = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the machine."""

    name: str
    """What was looked at, such as "NVDEC"."""
    status: Status
    """`ok`; `missing`: training works without it; `problem`: it does not."""
    detail: str
    """What was found, in a few words."""
    remedy: str = ""
    """What to do about it; empty when all is well."""


def diagnose() -> list[Finding]:
    """Look at this machine and environment; takes some seconds, most of them to import torch."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _cpu_and_memory, _disk, _packages, _ffmpeg, _codecs, _cuda, _nvdec, _wandb, _object_stores,
    ]  # fmt: skip
    return [finding for check in checks for finding in check()]


def is_able(findings: list[Finding]) -> bool:
    """Whether training is possible here, be it without a GPU or without logging in anywhere."""
    return all(finding.status != "problem" for finding in findings)


def render(findings: list[Finding], width: int = 80) -> str:
    """The findings as text of at most `width` columns, remedies below what they remedy, and a verdict."""
    column = max((len(finding.name) for finding in findings), default=0) + 2
    lines = [line for finding in findings for line in _render_one(finding, column, width)]
    problems = [finding.name for finding in findings if finding.status == "problem"]
    verdict = f"Not ready to train: see {', '.join(problems)}." if problems else "Ready to train."
    return "\n".join([*lines, "", verdict])


def _render_one(finding: Finding, column: int, width: int) -> list[str]:
    head = f"{finding.status:<9}{finding.name:<{column}}"
    indent = " " * len(head)
    fill = functools.partial(textwrap.wrap, width=width, break_on_hyphens=False)
    lines = fill(finding.detail, initial_indent=head, subsequent_indent=indent)
    if finding.remedy:
        lines += fill(finding.remedy, initial_indent=f"{indent}-> ", subsequent_indent=f"{indent}   ")
    return lines


# --- the machine ------------------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    supported = sys.platform == "linux" and (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}"
    remedy = "" if supported else "WildStream runs on Linux with Python 3.11 to 3.13: make setup PYTHON=python3.12"
    yield Finding("Python", "ok" if supported else "problem", detail, remedy)


def _cpu_and_memory() -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0))
    quota, *period = (_cgroup_limit("cpu.max") or "max").split()
    cores = min(allowed, int(quota) / int(period[0])) if quota != "max" and period else allowed
    of = f" of {os.cpu_count()}" if cores != os.cpu_count() else ""
    yield Finding("CPU", "ok", f"{cores:g}{of} cores")

    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit("memory.max") or "max"
    memory = physical if limit == "max" else min(physical, int(limit))
    of = f" of {physical / _GIB:.1f}" if memory != physical else ""
    yield Finding("memory", "ok", f"{memory / _GIB:.1f}{of} GiB")


def _cgroup_limit(file: str) -> str | None:
    """The innermost limit that this process's control groups (version 2) set; None if none does."""
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split("::")[-1].lstrip("/")
    except (OSError, IndexError):
        return None
    inner = Path("/sys/fs/cgroup") / group
    for folder in [inner, *inner.parents][: len(Path(group).parts) + 1]:
        try:
            limit = (folder / file).read_text().strip()
        except OSError:
            continue  # the root group has no limits, a container shows only its own
        if not limit.startswith("max"):
            return limit
    return None


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    enough = free >= _LEAST_DISK_GIB
    remedy = "" if enough else f"Make room: checkpoints and caches want at least {_LEAST_DISK_GIB} GiB."
    yield Finding("disk", "ok" if enough else "problem", f"{free:.1f} GiB free in {_short(Path.cwd())}", remedy)


def _short(path: Path) -> str:
    home = accounts.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) and home != Path("/") else str(path)


# --- software ---------------------------------------------------------------------------------------------------------


def _packages() -> Iterator[Finding]:
    for name in _REQUIRED:
        try:
            detail = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", "make setup, or pip install wildstream")
            continue
        try:
            if name in ("torch", "torchvision"):  # the pair must be of one build, which shows when it is imported
                importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            yield Finding(name, "problem", f"{detail} does not import: {_first_line(error)}", "make clean setup")
            continue
        yield Finding(name, "ok", detail)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _ffmpeg() -> Iterator[Finding]:
    try:
        found = ensure_ffmpeg()
    except FFmpegError as error:
        yield Finding("FFmpeg", "problem", str(error), "apt install ffmpeg, or pip install av")
        return
    owner = "the system's" if found.origin == "system" else "from PyAV's wheel"
    yield Finding("FFmpeg", "ok", f"{found.version}, {owner}, in {_short(found.path)}")


def _codecs() -> Iterator[Finding]:
    try:
        from wildstream.doctor import codecs  # imports torch and torchcodec, which may be what is ill

        videos = {codec: video for codec in codecs.ENCODERS if (video := codecs.trial_video(codec))}
        decoded = [codec for codec, (_, video) in videos.items() if codecs.decodes(video)]
    except (FFmpegError, ImportError, OSError, RuntimeError) as error:
        yield Finding("codecs", "problem", f"torchcodec fails: {_first_line(error)}", "make clean setup")
        return
    remedy = "WILDSTREAM_FFMPEG=pyav takes the FFmpeg in PyAV's wheel, which has them all."
    if failed := [codec for codec in videos if codec not in decoded]:
        yield Finding("decoders", "missing" if decoded else "problem", f"no {', '.join(failed)}", remedy)
    untried = [codec for codec in codecs.ENCODERS if codec not in videos]
    detail = f"{', '.join(decoded)} (tried)" + (f"; {', '.join(untried)} not tried, no encoder" if untried else "")
    yield Finding("decoders", "missing" if untried else "ok", detail, remedy if untried else "")
    encoders = [encoder for encoder, _ in videos.values()]
    has_x264 = "libx264" in encoders
    yield Finding(
        "encoders",
        "ok" if has_x264 else "missing",
        f"{', '.join(encoders) or 'none'} (tried)",
        "" if has_x264 else f"The demo and transcoding want libx264. {remedy}",
    )


def _cuda() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return  # the finding about torch says so
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        remedy = "Training runs on the CPU. With an NVIDIA GPU here: install or update its driver (nvidia-smi)."
        yield Finding("CUDA", "missing", f"no device (torch is built for {build})", remedy)
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", "ok", f"{device.name}, {device.total_memory / _GIB:.0f} GiB")


def _nvdec() -> Iterator[Finding]:
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        remedy = "Videos are decoded on the CPU. In a container with a GPU: NVIDIA_DRIVER_CAPABILITIES=all"
        yield Finding("NVDEC", "missing", "libnvcuvid.so.1 is not found", remedy)
        return
    try:
        import torch

        from wildstream.doctor import codecs

        trial = codecs.trial_video("h264") if torch.cuda.is_available() else None
    except (FFmpegError, ImportError, OSError, RuntimeError):
        trial = None
    if trial is None:
        yield Finding("NVDEC", "missing", "libnvcuvid.so.1 is there, but not tried: no CUDA device or no H.264 encoder")
        return
    works, reason = codecs.decodes_on_gpu(trial[1])
    remedy = "" if works else "Videos are decoded on the CPU. Update the driver, or take a GPU that has NVDEC."
    yield Finding("NVDEC", "ok" if works else "missing", "h264 (tried)" if works else reason, remedy)


# --- accounts ---------------------------------------------------------------------------------------------------------


def _wandb() -> Iterator[Finding]:
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        yield Finding("W&B login", "ok", f"not needed, WANDB_MODE={mode}")
    elif place := accounts.wandb_place():
        yield Finding("W&B login", "ok", place)
    else:
        yield Finding("W&B login", "missing", "no API key; runs are logged offline", "wandb login")


def _object_stores() -> Iterator[Finding]:
    for scheme, store in accounts.STORES.items():
        places = accounts.store_places(scheme)
        remedy = "" if places else f"Needed for private data only: {store.login}"
        yield Finding(scheme, "ok" if places else "missing", ", ".join(places) or "no credentials", remedy)
