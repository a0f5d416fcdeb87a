"""FFmpeg becomes available to torchcodec: each test in a process of its own, since libraries cannot be unloaded."""

import ctypes.util
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wildstream.elf import needed, with_soname
from wildstream.errors import FFmpegError
from wildstream.ffmpeg import ensure_ffmpeg

ROUND_TRIP = """
import torch
from torchcodec.decoders import VideoDecoder
from torchcodec.encoders import VideoEncoder
frames = torch.arange(8, dtype=torch.uint8).mul(30).reshape(8, 1, 1, 1).expand(8, 3, 64, 64).contiguous()
video = VideoEncoder(frames, frame_rate=8).to_tensor("matroska", codec="libx264", pixel_format="yuv420p", crf=10)
decoded = VideoDecoder(video)[:].data
assert decoded.shape == frames.shape and (decoded.int() - frames.int()).abs().max() < 4, decoded[:, 0, 0, 0]
"""
ENSURE = """
from wildstream.ffmpeg import ensure_ffmpeg
found = ensure_ffmpeg()
"""


def run(code: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with an FFmpeg cache of its own."""
    settings = {"WILDSTREAM_FFMPEG": "pyav", "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings, **environment}, capture_output=True, text=True
    )


def assert_runs(code: str, cache: Path, **environment: str) -> str:
    done = run(code, cache, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pyav_libraries_encode_and_decode(tmp_path: Path) -> None:
    facts = """
import json, torchcodec
print(json.dumps([torchcodec.ffmpeg_major_version, found.origin, found.major, found.version, str(found.path)]))
"""
    used, origin, major, version, path = json.loads(assert_runs(ENSURE + ROUND_TRIP + facts, tmp_path))
    assert origin == "pyav"
    assert used == major
    assert version.startswith(f"{major}.")
    assert Path(path).name == "av.libs"


def test_torch_is_not_imported(tmp_path: Path) -> None:
    assert_runs(ENSURE + "import sys; assert not {'torch', 'torchcodec', 'av'} & sys.modules.keys()", tmp_path)


@pytest.mark.parametrize("order", [("import av", ENSURE), (ENSURE, "import av")], ids=["av first", "av second"])
def test_works_beside_pyav(order: tuple[str, str], tmp_path: Path) -> None:
    with_av = """
import io
with av.open(io.BytesIO(video.numpy().tobytes())) as container:
    assert len([*container.decode(video=0)]) == 8
"""
    assert_runs("\n".join(order) + ROUND_TRIP + with_av + ROUND_TRIP, tmp_path)


def test_torchcodec_that_was_imported_first_is_put_right(tmp_path: Path) -> None:
    early = "from torchcodec.decoders import Demuxer, VideoDecoder"
    blocks = "Demuxer(video); import torchcodec; assert torchcodec.ffmpeg_major_version == found.major"
    assert_runs(early + ENSURE + ROUND_TRIP + blocks, tmp_path, WILDSTREAM_FFMPEG="auto")


def test_the_private_folder_is_built_once(tmp_path: Path) -> None:
    assert_runs(ENSURE, tmp_path)
    (folder,) = (tmp_path / "wildstream").iterdir()
    before = {file.name: file.lstat().st_mtime_ns for file in folder.iterdir()}
    assert_runs(ENSURE, tmp_path)
    assert {file.name: file.lstat().st_mtime_ns for file in folder.iterdir()} == before


def test_processes_that_race_for_an_empty_cache(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run(ENSURE, tmp_path), range(8)))
    assert [process.stderr for process in done] == [""] * 8
    assert len(list((tmp_path / "wildstream").iterdir())) == 1


def test_threads_get_one_answer() -> None:
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ensure_ffmpeg())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer is answers[0] for answer in answers)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")  # root writes to read-only folders, so not by permissions
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    assert_runs(ENSURE, blocked, TMPDIR=str(temporary))
    assert not [entry for entry in temporary.iterdir() if entry.name.startswith("wildstream-")]


def test_a_damaged_cache_is_not_loaded(tmp_path: Path) -> None:
    assert_runs(ENSURE, tmp_path)
    (avcodec,) = tmp_path.glob("wildstream/*/libavcodec*")
    avcodec.write_bytes(avcodec.read_bytes()[:5000])
    maps = assert_runs(ENSURE + "print(open('/proc/self/maps').read())", tmp_path)
    assert "libavcodec" in maps
    assert str(avcodec) not in maps


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    done = run(ENSURE, tmp_path, WILDSTREAM_FFMPEG="windows")
    assert "FFmpegError: WILDSTREAM_FFMPEG='windows' is not one of auto, system, pyav" in done.stderr


@pytest.mark.parametrize(("choice", "tried"), [("auto", ["system:", "pyav:"]), ("pyav", ["pyav:"])])
def test_no_ffmpeg_at_all(choice: str, tried: list[str], tmp_path: Path) -> None:
    hide = """
import ctypes, importlib.util
find, load = importlib.util.find_spec, ctypes.CDLL
importlib.util.find_spec = lambda name: None if name == "av" else find(name)
def no_system(name, *rest):
    if str(name).startswith("libav"): raise OSError(f"{name}: cannot open shared object file")
    return load(name, *rest)
ctypes.CDLL = no_system
"""
    error = run(hide + ENSURE, tmp_path, WILDSTREAM_FFMPEG=choice).stderr.splitlines()[-1]
    assert "No FFmpeg that torchcodec can use. Tried" in error
    assert all(origin in error for origin in tried)
    assert "apt install ffmpeg" in error


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A folder like a system's, with FFmpeg under its plain names."""
    assert_runs(ENSURE, tmp_path)
    (folder,) = (tmp_path / "wildstream").iterdir()
    for file in folder.glob("lib[as][vw]*"):
        name, version = file.name.split("-")[0], file.name.split(".so.")[1].split(".")[0]
        (folder / f"{name}.so.{version}").symlink_to(file.name)
    return folder


def test_the_system_comes_first(system: Path, tmp_path: Path) -> None:
    facts = "print(found.origin, found.path)"
    assert assert_runs(
        ENSURE + facts + ROUND_TRIP, tmp_path / "empty", WILDSTREAM_FFMPEG="auto", LD_LIBRARY_PATH=str(system)
    ).split() == ["system", str(system)]
    assert not (tmp_path / "empty").exists()


def test_an_incomplete_system_is_passed_over(system: Path, tmp_path: Path) -> None:
    next(system.glob("libavdevice.so.*")).unlink()
    found = assert_runs(ENSURE + "print(found.origin)", tmp_path, WILDSTREAM_FFMPEG="auto", LD_LIBRARY_PATH=str(system))
    assert found.strip() == "pyav" or ctypes.util.find_library("avdevice")  # this machine's own comes next


def test_pyav_cannot_replace_what_torchcodec_uses(system: Path, tmp_path: Path) -> None:
    done = run("import torchcodec" + ENSURE, tmp_path, LD_LIBRARY_PATH=str(system))
    assert "WILDSTREAM_FFMPEG='pyav' comes too late" in done.stderr
    assert "before torchcodec is imported" in done.stderr
    early = "import torchcodec" + ENSURE + ROUND_TRIP
    assert_runs(early, tmp_path / "empty", WILDSTREAM_FFMPEG="system", LD_LIBRARY_PATH=str(system))


def test_soname_is_replaced_in_place() -> None:
    import av

    (file,) = (Path(av.__file__).parents[1] / "av.libs").glob("libavutil-*")
    elf = file.read_bytes()
    plain = "libavutil.so." + file.name.split(".")[2]
    renamed = with_soname(elf, file.name, plain)
    assert len(renamed) == len(elf)
    assert renamed.replace(plain.encode().ljust(len(file.name), b"\0"), file.name.encode()) == elf
    with pytest.raises(FFmpegError, match="not where it can be replaced"):
        with_soname(renamed, file.name, plain)
    with pytest.raises(FFmpegError, match="not a 64-bit little-endian ELF"):
        with_soname(b"MZ" + elf, file.name, plain)


def test_needed_reads_what_the_linker_reads() -> None:
    import av

    (file,) = (Path(av.__file__).parents[1] / "av.libs").glob("libavfilter-*")
    assert any(name.startswith("libavutil-") for name in needed(file))
    assert "libc.so.6" in needed(file)
