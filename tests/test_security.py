"""Bytes from a tar are data, never code: hostile shards, indexed, planned and streamed, run nothing and escape nowhere.

What is lost is named: by `index_shards` in its report, by planned streams as ShardError. A plain stream reads as
`webdataset` does, which for a shard that is cut between two members says nothing; that is what indexes are for.
"""

import gc
import io
import os
import pickle
import struct
import tarfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import webdataset
from conftest import contents, moving_pattern, write_rows, write_video

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import LabelError, SampleError, ShardError, StorageError, WildStreamError
from wildstream.shards.adopt import index_shards
from wildstream.shards.pack import pack
from wildstream.shards.tar import EXTENDED_BYTES, Member, read_tar

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
FRAMES, CLASSES = 12, 2
ROWS = np.arange(FRAMES)[:, None] // np.array([3, 5]) % 2


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.makedirs, (str(self.marker), 0o777, True)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two small videos in the frames layout."""
    root = tmp_path_factory.mktemp("source")
    (root / "categories.json").write_text('["a", "b"]')
    for seed in range(2):
        write_video(root / "train" / f"v{seed}.mp4", moving_pattern(seed, FRAMES, 32, 32))
        write_rows(root / "train" / f"v{seed}.tsv", ROWS)
    return root


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory) -> Path:
    """Both of them in one shard; not to be written to."""
    out = tmp_path_factory.mktemp("packed")
    assert not pack(source, out, format="frames", progress=False).refused
    return out / "train"


@pytest.fixture(scope="module")
def clip(source) -> bytes:
    return (source / "train" / "v0.mp4").read_bytes()


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A folder deep enough that ../ stays in the test's own; when the test is over, nothing else was made there."""
    folder = tmp_path / "a" / "b" / "c"
    (folder / "shards").mkdir(parents=True)
    monkeypatch.chdir(folder)
    yield folder
    allowed = {folder / "shards" / name for name in ("0.tar", "index.parquet", "dataset.json", "index-report.json")}
    made = {path for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert made <= allowed | set(tmp_path.glob("a/b/secret")), "something was made outside"
    folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == {tmp_path / "a", tmp_path / "a" / "b", folder, folder / "shards"}, "something was run"


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def write_tar(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def good(clip: bytes, key: str = "good") -> list[tuple[str, bytes]]:
    return [(f"{key}.mp4", clip), (f"{key}.labels.npy", npy(ROWS.astype(np.uint8)))]


def indexed(folder: Path) -> dict[str, str]:
    """What `index_shards` refuses of a folder."""
    report = index_shards(folder, progress=False, workers=1)
    return {entry.path: entry.reason for entry in report.refused}


def planned(folder: Path) -> list:
    """The batches of a planned stream."""
    dataset = ws.DatasetBuilder(path=folder, style=STYLE).build()
    return list(dataset.loader(batch_size=2, shuffle=True, seed=0, size=16, num_workers=1))


def plain(shard: Path) -> list:
    """The batches of a plain stream, as the README has it."""
    failure = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing files to the garbage collector
        stages = ws.ParseSamples(style=STYLE, num_classes=CLASSES), ws.Decode(size=16, threads=1), ws.Windows()
        stream = webdataset.WebDataset([str(shard)], shardshuffle=False, empty_check=False)
        try:
            batches = list(stream.compose(*stages, ws.Batches(size=2)))
        except (tarfile.TarError, WildStreamError, ValueError, RecursionError) as error:
            failure = type(error)(str(error))  # without what holds the file open
        del stream
        gc.collect()
    if failure is not None:
        raise failure
    return batches


def windows_of(batches: list) -> int:
    return sum(int(batch.mask.sum()) for batch in batches)


WHOLE = int(STYLE.num_windows([FRAMES])[0])


# --- code ------------------------------------------------------------------------------------------------------------


def test_members_that_would_run_code_when_loaded_are_not_loaded(sandbox, clip):
    marker = sandbox / "ran"
    trap = pickle.dumps(Trap(marker))
    traps = [(f"good.{extension}", trap) for extension in ("pkl", "pyd", "pth", "pickle", "pt", "npz", "json")]
    shard = write_tar(sandbox / "shards" / "0.tar", *good(clip), *traps)
    assert indexed(sandbox / "shards") == {}
    assert windows_of(planned(sandbox / "shards")) == WHOLE
    assert ws.verify(sandbox / "shards", progress=False) == []
    assert windows_of(plain(shard)) == WHOLE
    assert not marker.exists()
    # The trap is one: webdataset's own decoders, which nothing here calls, spring it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = webdataset.WebDataset([str(shard)], shardshuffle=False)
        list(stream.decode(handler=webdataset.ignore_and_continue))
        gc.collect()
    assert marker.is_dir()
    marker.rmdir()


def test_labels_that_are_pickles_are_refused(sandbox, clip):
    trap = np.empty((FRAMES, CLASSES), object)
    trap[0, 0] = Trap(sandbox / "ran")
    bare = pickle.dumps(Trap(sandbox / "ran"))
    for labels in (npy(trap), bare):
        shard = write_tar(sandbox / "shards" / "0.tar", *good(clip), ("x.mp4", clip), ("x.labels.npy", labels))
        assert "labels.npy is not a plain array" in indexed(sandbox / "shards")["0.tar/x.mp4"]
        assert windows_of(planned(sandbox / "shards")) == WHOLE
        with pytest.raises(LabelError, match=r"x: labels\.npy is not a plain array"):
            plain(shard)
    np.load(io.BytesIO(npy(trap)), allow_pickle=True)  # the trap is one
    (sandbox / "ran").rmdir()


def test_an_npy_that_announces_what_it_has_not_is_refused(sandbox, clip):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"
    nested = b"(" * 4000 + b")" * 4000
    for shape in (b"(100000000000, 2)", b"(-1, 2)", b"(10**9, 2)", b"(99999999999999999999999, 2)", nested):
        text = (header % shape).ljust(8117) + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(24)
        write_tar(sandbox / "shards" / "0.tar", *good(clip), ("x.mp4", clip), ("x.labels.npy", content))
        assert "labels.npy is not a plain array" in indexed(sandbox / "shards")["0.tar/x.mp4"]


# --- paths -----------------------------------------------------------------------------------------------------------

PATHS = [
    "../up",
    "a/../../up",
    "/tmp/up",
    "//up",
    "C:/up",
    "c:up",
    "..\\up",
    "a//b",
    "a/./b",
    "a\nb",
    "a\x1b[31mb",
    "é" * 200,
    "../../b/secret",
]


@pytest.mark.parametrize("key", [*PATHS, "nül\0in", "no\udcffutf8"])
def test_keys_that_lead_out_of_their_folder_are_refused(sandbox, clip, key):
    shard = write_tar(sandbox / "shards" / "0.tar", *good(clip), *good(clip, key), *good(clip, "good2"))
    refused = index_shards(sandbox / "shards", progress=False).refused
    assert ws.open_index(sandbox / "shards").keys == ["good", "good2"]
    assert len(refused) == 2, refused
    assert all("rename it" in entry.reason for entry in refused)
    assert all(entry.path.isprintable() for entry in refused), "nothing that a terminal would obey"
    assert windows_of(planned(sandbox / "shards")) == 2 * WHOLE
    kept = 2 if key.startswith(".") and "/" not in key else 3  # hidden files are none of webdataset's samples
    assert windows_of(plain(shard)) == kept * WHOLE, "in a plain stream a key is a name and nothing else"


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_and_devices_are_never_followed(sandbox, clip):
    secret = sandbox.parent / "secret"
    secret.write_bytes(clip)
    kinds = {
        "symbolic link": special("a.mp4", tarfile.SYMTYPE, str(secret)),
        "hard link": special("b.mp4", tarfile.LNKTYPE, "good.mp4"),
        "character device": special("c.mp4", tarfile.CHRTYPE),
        "block device": special("d.mp4", tarfile.BLKTYPE),
        "FIFO": special("e.mp4", tarfile.FIFOTYPE),
        "unknown type": special("f.mp4", b"Q"),
    }
    labels = good(clip)[1][1]
    members = [part for info in kinds.values() for part in ((info, b""), (f"{info.name[0]}.labels.npy", labels))]
    shard = write_tar(sandbox / "shards" / "0.tar", *good(clip), *members)
    refused = indexed(sandbox / "shards")
    for kind, info in kinds.items():
        assert kind in refused[f"0.tar/{info.name}"]
        assert "has no video" in refused[f"0.tar/{info.name[0]}"]
    assert len(refused) == 2 * len(kinds)
    assert windows_of(planned(sandbox / "shards")) == WHOLE
    with pytest.raises(SampleError, match="no video among its members"):
        plain(shard)


# --- sizes -----------------------------------------------------------------------------------------------------------


def raw_tar(*blocks: bytes) -> bytes:
    return b"".join(block.ljust(-(-len(block) // 512) * 512, b"\0") for block in blocks) + bytes(1024)


def head(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_size_beyond_the_end_of_the_file_is_named(sandbox, clip):
    (first, video), (second, labels) = good(clip)
    begun = (head(first, len(video)), video, head(second, len(labels)), labels)
    for size in (10**6, 10**15, 2**62):
        (sandbox / "shards" / "0.tar").write_bytes(raw_tar(*begun, head("x.mp4", size), b"begun"))
        refused = indexed(sandbox / "shards")
        assert list(refused) == ["0.tar"]
        assert "is truncated within member 'x.mp4'" in refused["0.tar"]
        assert "after member 'good.labels.npy'" in refused["0.tar"]
        assert windows_of(planned(sandbox / "shards")) == WHOLE
        with pytest.raises(tarfile.ReadError):
            plain(sandbox / "shards" / "0.tar")
    for size in (b"\xff" * 12, b"zzzzzzzzzzz\0"):
        block = bytearray(head("x.mp4", 0))
        block[124:136] = size
        block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
        (sandbox / "shards" / "0.tar").write_bytes(raw_tar(*begun, bytes(block)))
        assert list(indexed(sandbox / "shards")) == ["0.tar"]


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + len(str(len(body)))
    length += len(str(length)) - len(str(len(body)))
    return str(length).encode() + body


def extended(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> list[bytes]:
    """A pax header, and a member that it is for."""
    content = b"".join(records)
    return [head("x", len(content), kind), content, head("y.mp4", 5), b"hello"]


LARGE = 4 << 20
BOMBS = {
    "announces gigabytes": ([head("x", 8 << 30, tarfile.XHDTYPE)], "8,589,93"),
    "is large": (extended(record("comment", "y" * LARGE)), "extended headers of 4,19"),
    "is large for all": (extended(record("comment", "y" * LARGE), kind=tarfile.XGLTYPE), "extended headers of 4,19"),
    "grows for all": (
        [part for n in range(5) for part in extended(record(f"k{n}", "y" * 300_000), kind=tarfile.XGLTYPE)],
        "extended headers of 1,200,",
    ),
    "has a long name": ([head("x", LARGE, tarfile.GNUTYPE_LONGNAME), b"n" * LARGE, head("y", 0)], "extended headers"),
    "has many headers": ([*[head("x", 0, tarfile.XHDTYPE)] * 5000, head("y.mp4", 0)], "extended headers of 1,04"),
    "sets all sizes": (extended(record("size", "1"), kind=tarfile.XGLTYPE), "sets the size of all members"),
    "sets all names": (extended(record("path", "z"), kind=tarfile.XGLTYPE), "sets the path of all members"),
    "is digits": (extended(b"1" * (EXTENDED_BYTES - 2048)), "malformed pax header"),
    "has a negative size": (extended(record("size", "-5")), "whose size is no number"),
    "has a long size": (extended(record("size", "9" * 5000)), "whose size is no number"),
    "lies about its length": (extended(b"999999 path=z\n"), "malformed pax header"),
    "is sparse": (extended(record("GNU.sparse.major", "1")), "sparse member"),
    "is for no member": (extended(record("path", "z"))[:2], "without a member"),
}
SLOW = {"is digits"}  # CVE-2024-6232: in Python before 3.11.10 tarfile takes minutes, and webdataset with it


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pax_bomb_is_refused_and_named(sandbox, clip, bomb):
    (first, video), (second, labels) = good(clip)
    begun = (head(first, len(video)), video, head(second, len(labels)), labels)
    blocks, reason = BOMBS[bomb]
    shard = sandbox / "shards" / "0.tar"
    shard.write_bytes(raw_tar(*begun, *blocks))
    begin = time.monotonic()
    refused = indexed(sandbox / "shards")
    assert time.monotonic() - begin < 5
    assert reason in refused["0.tar"]
    assert "what follows is not read" in refused["0.tar"]
    assert windows_of(planned(sandbox / "shards")) == WHOLE
    if bomb not in SLOW:
        with suppress(tarfile.TarError, WildStreamError, ValueError, RecursionError):
            plain(shard)


def test_members_are_found_with_little_memory_and_never_outside(clip):
    """Archives with bytes changed at random: no error, no end of time, nothing beyond the archive."""
    rng = np.random.default_rng(0)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(6):
            info = tarfile.TarInfo("ü" * 30 * number + f"{number}.mp4")
            info.size, info.pax_headers = 700, {"SCHILY.xattr.user.x": "y" * 300}
            tar.addfile(info, io.BytesIO(rng.bytes(700)))
    whole = archive.getvalue()
    for _ in range(2000):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole) - 4096, int(rng.integers(1, 4))):
            changed[place] = rng.integers(256)
        if rng.random() < 0.5:  # a hostile writer has its sums right
            for place in range(0, len(changed) - 512, 512):
                if changed[place + 257 : place + 262] == b"ustar":
                    block = changed[place : place + 512]
                    changed[place + 148 : place + 156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
        for entry in read_tar(bytes(changed)):
            assert not isinstance(entry, Member) or 0 < entry.offset <= entry.offset + entry.size <= len(changed)


# --- cut shards ------------------------------------------------------------------------------------------------------


def cuts_of(shard: bytes) -> list[int]:
    """Every border of 512 bytes, and places within the headers and members."""
    return sorted({*range(0, len(shard), 512), *range(100, len(shard), 1700)})


def test_every_cut_of_a_shard_is_noticed(sandbox, packed):
    whole = (packed / "000000.tar").read_bytes()
    found = list(read_tar(whole))
    end = -(-(found[-1].offset + found[-1].size) // 512) * 512  # where zeros begin
    keys = 0
    for cut in cuts_of(whole):
        (sandbox / "shards" / "0.tar").write_bytes(whole[:cut])
        refused = indexed(sandbox / "shards")
        if cut >= end + 512:
            assert refused == {}, cut
            continue
        assert ("is truncated" in refused["0.tar"]) or (cut == 0 and "is empty" in refused["0.tar"]), cut
        last = [entry.name for entry in found if -(-(entry.offset + entry.size) // 512) * 512 <= cut]
        assert (f"after member {last[-1]!r}" if last else "before its first member") in refused["0.tar"], cut
        there = [entry for entry in found if entry.offset + entry.size <= cut]
        complete = sum(entry.name.endswith("labels.npy") for entry in there)
        if complete:
            assert len(ws.open_index(sandbox / "shards")) == complete, cut
            assert complete >= keys
            keys = complete
        else:
            assert not (sandbox / "shards" / "dataset.json").exists(), cut


def test_a_planned_stream_of_a_cut_shard_is_an_error_or_whole(packed, tmp_path, capsys):
    folder = tmp_path / "train"
    folder.mkdir()
    for name, content in contents(packed).items():
        (folder / name).write_bytes(content)
    whole = (packed / "000000.tar").read_bytes()
    expected = planned(packed)
    index = ws.open_index(packed)
    _, offset, size = index.place(len(index) - 1)
    delivered = 0
    for cut in cuts_of(whole):
        (folder / "000000.tar").write_bytes(whole[:cut])
        if cut >= offset + size:
            delivered += 1
            for one, other in zip(planned(folder), expected, strict=True):
                assert one.frames.equal(other.frames)
                assert one.keys == other.keys
            assert ws.verify(folder, progress=False) == []
        else:
            with pytest.raises(ShardError, match=r"000000\.tar"):
                planned(folder)
            faults = ws.verify(folder, progress=False, workers=1)
            assert [fault.key for fault in faults][-1] == "v1"
            assert all(fault.shard == "000000.tar" and "truncated" in fault.reason for fault in faults)
    assert delivered > 10
    (folder / "000000.tar").write_bytes(whole[: offset + size - 1])
    assert main(["verify", str(folder)]) == 1
    assert "000000.tar  v1:" in capsys.readouterr().out
    (folder / "000000.tar").unlink()
    with pytest.raises(ShardError, match=r"000000\.tar"):
        planned(folder)


def test_a_plain_stream_of_a_cut_shard_delivers_what_is_there_or_fails(sandbox, packed):
    whole = (packed / "000000.tar").read_bytes()
    shard = sandbox / "shards" / "0.tar"
    expected = plain(packed / "000000.tar")
    for cut in cuts_of(whole):
        shard.write_bytes(whole[:cut])
        try:
            batches = plain(shard)
        except (tarfile.ReadError, WildStreamError):
            continue
        for one, other in zip(batches, expected, strict=False):
            count = int(one.mask.sum())
            assert one.frames[:count].equal(other.frames[:count]), cut


def test_a_remote_shard_that_is_cut_is_named(s3, packed, tmp_path):
    whole = (packed / "000000.tar").read_bytes()
    url = s3.put_folder(packed, "train")
    index = ws.open_index(packed)
    _, offset, size = index.place(1)
    for cut in (0, 512, offset, offset + size - 1):
        s3.put("train/000000.tar", whole[:cut])
        with pytest.raises(StorageError, match=r"000000\.tar"):
            planned(url)
        report = index_shards(url, out=tmp_path / "index", progress=False)
        assert any("is truncated" in entry.reason or "is empty" in entry.reason for entry in report.refused)
        assert report.refused[0].path == f"{url}/000000.tar"
