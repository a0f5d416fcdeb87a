"""FFmpeg's shared libraries → loaded into this process, where torchcodec finds them.

torchcodec decodes with FFmpeg but brings none along: its own libraries ask the dynamic linker for `libavcodec.so.62`
and six more by name. The system's are taken where there are any (`apt install ffmpeg`, conda, LD_LIBRARY_PATH).

Else the seven inside PyAV's wheel are, which every installation of WildStream has: they lie in `av.libs/` under mangled
names such as `libavcodec-5e6b81c2.so.62.28.102`, which torchcodec's request does not match. A library that is already
loaded satisfies a request for its SONAME, so copies that carry the plain SONAME are loaded first. That needs neither
root nor a changed environment, and 0.2 s once per machine, 0.03 s thereafter.

The environment variable WILDSTREAM_FFMPEG chooses: `auto` (the default: system, then PyAV), `system` or `pyav`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from wildstream.elf import needed, with_soname
from wildstream.errors import FFmpegError
from wildstream.locations import cache_folder

Origin = Literal["system", "pyav"]

_REMEDY = "Install FFmpeg 4 to 9 (apt install ffmpeg, conda install ffmpeg) or PyAV (pip install --only-binary av av)."
_LIBRARIES = ("avutil", "swresample", "swscale", "avcodec", "avformat", "avfilter", "avdevice")
"""What torchcodec links to, each after the ones it depends on."""
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class FFmpegLibraries:
    """The FFmpeg that torchcodec decodes with in this process."""

    origin: Origin
    """Who installed it: the system, or PyAV's wheel."""
    major: int
    """FFmpeg's major version, such as 8."""
    version: str
    """FFmpeg's full version, such as "8.1"."""
    path: Path
    """The folder that it was found in."""


def ensure_ffmpeg() -> FFmpegLibraries:
    """Load FFmpeg, once per process, and say which; call it before torchcodec is imported.

    If torchcodec was imported before and found no FFmpeg, it is put right. Cheap to call again, from any thread.

    Raises:
        FFmpegError: there is no FFmpeg that torchcodec can use, or WILDSTREAM_FFMPEG asks for what cannot be had.
    """
    with _lock:
        return _load_once()


def library(name: str) -> ctypes.CDLL:
    """One of the FFmpeg libraries that torchcodec uses, such as "swscale"; FFmpegError as in `ensure_ffmpeg`."""
    names = _sonames_by_major()[ensure_ffmpeg().major]
    # It is loaded, and the dynamic linker knows what is loaded by its SONAME.
    return ctypes.CDLL(next(soname for soname in names if soname.startswith(f"lib{name}.")))


@functools.cache
def _load_once() -> FFmpegLibraries:
    sonames = _sonames_by_major()
    wanted = _wanted_origins()
    torchcodec = sys.modules.get("torchcodec")
    if bound := getattr(torchcodec, "ffmpeg_major_version", None):
        if "system" not in wanted:
            raise FFmpegError(
                f"WILDSTREAM_FFMPEG='pyav' comes too late: torchcodec was imported before and uses the system's FFmpeg "
                f"{bound}. Import wildstream.ffmpeg and call ensure_ffmpeg() before torchcodec is imported."
            )
        return _load_system({bound: sonames[bound]})
    found = _load_first(wanted, sonames)
    if torchcodec is not None:
        _rebind_torchcodec()
    return found


def _wanted_origins() -> tuple[Origin, ...]:
    choice = os.environ.get("WILDSTREAM_FFMPEG", "auto")
    choices = {"auto": get_args(Origin), **{origin: (origin,) for origin in get_args(Origin)}}
    if choice not in choices:
        raise FFmpegError(
            f"WILDSTREAM_FFMPEG={choice!r} is not one of {', '.join(choices)}. Unset it or take one of them."
        )
    return choices[choice]


def _load_first(origins: Iterable[Origin], sonames: dict[int, frozenset[str]]) -> FFmpegLibraries:
    failures = []
    for origin in origins:
        try:
            return _load_system(sonames) if origin == "system" else _load_pyav(sonames)
        except (FFmpegError, OSError) as error:
            failures.append(f"{origin}: {error}")
    raise FFmpegError(f"No FFmpeg that torchcodec can use. Tried {'; '.join(failures)}. {_REMEDY}")


def _sonames_by_major() -> dict[int, frozenset[str]]:
    """The names that torchcodec's libraries ask the dynamic linker for, by FFmpeg's major version, newest first.

    They are read from the files: importing torchcodec to ask it takes seconds, and would settle the matter too early.
    """
    found = {}
    for file in _package_folder("torchcodec").glob("libtorchcodec_core*.so"):
        names = frozenset(name for name in needed(file) if re.match(r"lib(av|sw)", name))
        found[int(file.stem.removeprefix("libtorchcodec_core"))] = names
    return dict(sorted(found.items(), reverse=True))


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FFmpegError(f"the package {package!r} is not installed (pip install {package})")
    return Path(spec.origin).parent


def _load_system(sonames: dict[int, frozenset[str]]) -> FFmpegLibraries:
    for major, names in sonames.items():
        try:
            # libavdevice depends on all the others, so an incomplete FFmpeg fails here as a whole and loads nothing.
            *_, avutil = [ctypes.CDLL(name) for name in sorted(names, key=_rank, reverse=True)]
        except OSError:
            continue
        return FFmpegLibraries("system", major, _version(avutil), _folder_of(avutil))
    raise FFmpegError(f"the dynamic linker finds no complete FFmpeg of version {', '.join(map(str, sonames))}")


def _version(avutil: ctypes.CDLL) -> str:
    avutil.av_version_info.restype = ctypes.c_char_p
    return str(avutil.av_version_info().decode())


def _folder_of(library: ctypes.CDLL) -> Path:
    """The folder that FFmpeg's libavutil was loaded from, as the kernel tells it."""
    address = ctypes.cast(library.av_version_info, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, file = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= address < end:
            return Path(file).parent
    raise FFmpegError(f"libavutil's address {address:#x} is in no file mapped into this process")


def _load_pyav(sonames: dict[int, frozenset[str]]) -> FFmpegLibraries:
    libs = _package_folder("av").parent / "av.libs"
    files = sorted(libs.glob("*.so*"))
    plain = {file.name: name for file in files if (name := _plain_soname(file.name))}
    major = next((major for major, names in sonames.items() if names <= set(plain.values())), None)
    if major is None:
        carried = ", ".join(sorted(plain.values())) or "no libraries of FFmpeg (PyAV built from source?)"
        raise FFmpegError(f"{libs} holds {carried}; torchcodec takes FFmpeg {', '.join(map(str, sonames))}")
    avutil = _load_private(files, plain)
    return FFmpegLibraries("pyav", major, _version(avutil), libs)


def _plain_soname(file_name: str) -> str | None:
    """`libavcodec-5e6b81c2.so.62.28.102` → `libavcodec.so.62`; None for what is not FFmpeg's."""
    match = re.match(r"lib(\w+)-[0-9a-f]+\.so\.(\d+)", file_name)
    return f"lib{match[1]}.so.{match[2]}" if match and match[1] in _LIBRARIES else None


def _rank(soname: str) -> int:
    return _LIBRARIES.index(soname.removeprefix("lib").split(".")[0])


def _load_private(files: list[Path], plain: dict[str, str]) -> ctypes.CDLL:
    """Load the renamed copies, from the user's cache or else from a temporary folder; returns libavutil."""
    try:
        return _load_folder(_private_folder(cache_folder(), files, plain), plain)
    except (OSError, RuntimeError):
        # No home folder, or it is full, read-only or mounted noexec. What is loaded stays loaded without its file.
        with tempfile.TemporaryDirectory(prefix="wildstream-") as root:
            return _load_folder(_private_folder(Path(root), files, plain), plain)


def _load_folder(folder: Path, plain: dict[str, str]) -> ctypes.CDLL:
    # Each by its path, since a copy's own dependencies are met by PyAV's originals if `import av` came first. Without
    # RTLD_GLOBAL, so that no other extension's symbols are resolved by them: torchcodec's request goes by SONAME alone.
    avutil, *_ = [ctypes.CDLL(str(folder / name)) for name in sorted(plain, key=lambda name: _rank(plain[name]))]
    return avutil


def _private_folder(root: Path, files: list[Path], plain: dict[str, str]) -> Path:
    """A folder with all of `files`: renamed copies of FFmpeg's, links to the rest; built once for a wheel.

    Built aside and renamed, so that of several processes one wins and none sees a half-filled folder.
    """
    folder = root / f"ffmpeg-{_identity(files)}"
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".ffmpeg-", dir=root))
        try:
            _fill(building, files, plain)
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    if damaged := [file.name for file in files if (folder / file.name).stat().st_size != file.stat().st_size]:
        raise OSError(f"{folder} is damaged ({damaged[0]} has another size than in the wheel). Delete it.")
    return folder


def _identity(files: list[Path]) -> str:
    """A digest of path, size and time of the wheel's files; their names hold PyAV's versions and hashes."""
    facts = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _fill(folder: Path, files: list[Path], plain: dict[str, str]) -> None:
    for file in files:
        target = folder / file.name
        if soname := plain.get(file.name):
            target.write_bytes(with_soname(file.read_bytes(), file.name, soname))
        else:
            target.symlink_to(file)  # the copies look for it beside themselves (RPATH $ORIGIN)


def _rebind_torchcodec() -> None:
    """Give an already imported torchcodec the FFmpeg functions that it could not load.

    At import it binds, in several modules, stand-ins that retry the loading but never decode. So the real functions are
    put in the place of every stand-in.
    """
    try:
        ops = sys.modules["torchcodec._core.ops"]
        major, core_path = importlib.import_module("torchcodec._internally_replaced_utils").load_core_libraries()
        real = importlib.import_module("torchcodec._core._ffmpeg_ops")
        replacements = {name: getattr(real, name) for name in real.__all__}
        state = {"ffmpeg_major_version": major, "core_library_path": core_path, "_FFMPEG_AVAILABLE": True}
    except (AttributeError, ImportError, KeyError, RuntimeError) as error:
        raise FFmpegError(
            "torchcodec was imported before FFmpeg was made available, and cannot be put right afterwards "
            f"({error}). Import wildstream.ffmpeg and call ensure_ffmpeg() before torchcodec is imported."
        ) from error
    vars(ops).update(replacements)
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "torchcodec"]:
        names = vars(module)
        names.update({name: value for name, value in (replacements | state).items() if name in names})
