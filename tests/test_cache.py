"""The cache on disk: the exact bytes or a fetch, whatever happens to its files, its processes and its disk.

As a script, this file is the launcher of `test_processes_that_are_killed_…`: readers that are killed and started anew.
"""

import base64
import fcntl
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wildstream.errors import ConfigError, StorageError
from wildstream.storage import cache as module
from wildstream.storage.cache import BlockCache
from wildstream.storage.objects import Version

URL = "s3://bucket/shards/000000.tar"
SMALL = 1000
"""Bytes of a block in most tests."""
FILE = SMALL + module._HEADER.size
"""Bytes of the file of such a block."""


def truth(url: str, first: int, last: int, tag: str = "one") -> bytes:
    """The bytes [first, last) of an object that exists nowhere."""
    words = np.arange(first // 8, -(-last // 8), dtype=np.uint64) + np.uint64(sum(map(ord, url + tag)) << 40)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))).tobytes()[first % 8 :][: last - first]


def run_python(*arguments):
    from tiny import run_python as run  # PyTorch comes with it, for which the launcher need not wait

    return run(*arguments)


class Server:
    """Answers fetches, and remembers them."""

    def __init__(self, url=URL, size=10 * SMALL + 345, tag="one"):
        self.url, self.version, self.calls = url, Version(size, tag), []

    def fetch(self, first, last):
        self.calls.append((first, last))
        return memoryview(truth(self.url, first, last, self.version.tag))

    def read(self, cache, start=0, stop=None):
        """Read a range through a cache and compare it with the truth; which fetches that took."""
        self.calls = []
        stop = self.version.size if stop is None else stop
        found = cache.read(self.url, self.version, start, stop, self.fetch)
        assert bytes(found) == truth(self.url, start, stop, self.version.tag), (start, stop)
        return self.calls


def another_process():
    """Forget what this process knows, as if another one went on."""
    module._known.clear()


def block_files(folder: Path) -> list[Path]:
    """All blocks, in order of their numbers."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(".block")]
    return sorted(
        (path for path in found if len(path.parent.name) == len(path.parents[1].name) == 32),
        key=lambda path: int(path.stem),
    )


def held(folder: Path) -> int:
    """Bytes of all blocks."""
    return sum(path.stat().st_size for path in block_files(folder))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    another_process()
    monkeypatch.setattr(module, "BLOCK_BYTES", SMALL)


@pytest.fixture
def cache(tmp_path):
    return BlockCache(tmp_path / "cache", 1 << 30)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_second_read_fetches_nothing(cache):
    server = Server()
    assert server.read(cache, 1500, 4200) == [(1000, 5000)]
    assert server.read(cache, 1500, 4200) == server.read(cache, 1000, 5000) == server.read(cache, 4999, 5000) == []
    another_process()
    assert server.read(cache, 1500, 4200) == []
    assert [path.stem for path in block_files(cache.folder)] == ["1", "2", "3", "4"]


def test_neighbours_that_are_missing_are_fetched_at_once(cache):
    server = Server()
    server.read(cache, 3000, 3001)
    server.read(cache, 6999, 7001)
    assert server.read(cache, 500) == [(0, 3000), (4000, 6000), (8000, 10_345)]
    assert server.read(cache) == []


def test_the_last_block_ends_with_the_object(cache):
    server = Server()
    assert server.read(cache, 10_344, 10_345) == [(10_000, 10_345)]
    exact = Server("s3://bucket/exact", 2 * SMALL)
    assert exact.read(cache) == [(0, 2000)]
    assert exact.read(cache) == []


@pytest.mark.parametrize("place", [0, 700, 1000, 10_345])
def test_nothing_is_fetched_for_nothing(cache, place):
    assert Server().read(cache, place, place) == []
    assert Server(size=0).read(cache, 0, 0) == []
    assert block_files(cache.folder) == []


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10_346), (10_346, 10_346)])
def test_bytes_that_the_object_has_not_are_refused(cache, start, stop):
    with pytest.raises(StorageError, match="has 10,345 bytes"):
        cache.read(URL, Server().version, start, stop, Server().fetch)


def test_blocks_have_their_real_size_by_default(cache, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 20)
    server = Server(size=(2 << 20) + 5)
    assert server.read(cache, (1 << 20) - 1, (1 << 20) + 1) == [(0, 2 << 20)]
    assert server.read(cache) == [(2 << 20, (2 << 20) + 5)]
    another_process()
    assert server.read(cache) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 12 * SMALL), min_size=1, max_size=3),
    room=st.sampled_from([1, FILE, 3 * FILE, 7 * FILE, 1 << 30]),
    reads=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=25
    ),
)
def test_any_ranges_are_those_of_the_object(tmp_path_factory, sizes, room, reads):
    cache = BlockCache(tmp_path_factory.mktemp("any"), room)
    servers = [Server(f"s3://bucket/{number}", size) for number, size in enumerate(sizes)]
    for which, one, other, anew in reads:
        server = servers[which % len(servers)]
        start, stop = sorted(round(share * server.version.size) for share in (one, other))
        calls = server.read(cache, start, stop)
        assert all(first % SMALL == 0 and last <= server.version.size for first, last in calls)
        assert all(before[1] < after[0] for before, after in pairwise(calls))
        assert held(cache.folder) <= room
        if anew:
            another_process()
        elif room == 1 << 30:
            assert server.read(cache, start, stop) == []


def test_threads_agree(cache):
    small = BlockCache(cache.folder, 12 * FILE)
    failed = []

    def reader(seed):
        draw = random.Random(seed)
        for _ in range(60):
            server = Server(f"s3://bucket/{draw.randrange(3)}")
            start, stop = sorted(draw.randrange(server.version.size + 1) for _ in range(2))
            try:
                server.read(draw.choice([cache, small]), start, stop)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test reports it
                failed.append(repr(error))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader, range(8)))
    assert failed == []
    assert list((cache.folder / "writing").iterdir()) == []


def test_it_can_be_pickled_and_read_elsewhere(cache):
    server = Server()
    server.read(cache)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - its own
    assert copy == cache
    assert server.read(copy) == []
    script = (
        "import base64, pickle, sys; from wildstream.storage import cache as module; module.BLOCK_BYTES = 1000\n"
        "cache, version = pickle.loads(base64.b64decode(sys.argv[1]))\n"
        "sys.stdout.write(bytes(cache.read(sys.argv[2], version, 500, 5500, None)).hex())"
    )
    done = run_python("-c", script, base64.b64encode(pickle.dumps((cache, server.version))).decode(), URL)
    assert done.stdout == truth(URL, 500, 5500).hex(), done.stderr


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"tag": "two"}, {"size": 10 * SMALL + 344}, {"size": 20 * SMALL}])
def test_bytes_of_another_version_are_never_returned(cache, other):
    old, new = Server(), Server(**other)
    old.read(cache)
    assert new.read(cache, 0, 9_500) == [(0, 10_000)]
    another_process()
    assert new.read(cache, 0, 9_500) == []
    # Whoever still reads the old one gets the old one.
    assert old.read(cache) == new.read(cache, 0, 9_500) == []


def test_nothing_secret_is_kept_or_said(tmp_path):
    cache = BlockCache(tmp_path / "cache", 1 << 30)
    server = Server("https://user:hunter2@host/shards/0.tar?sig=hunter2")
    server.read(cache)
    for path in cache.folder.rglob("*"):
        assert "hunter2" not in str(path)
        assert path.is_dir() or b"hunter2" not in path.read_bytes()
    for stop, fetch in [(10, lambda first, last: b""), (99_999, None)]:
        with pytest.raises(StorageError, match=r"^https://\*\*\*@host/shards/0.tar\?\*\*\*") as caught:
            cache.read(server.url, Version(50_000, "new"), 0, stop, fetch)
        assert "hunter2" not in str(caught.value)


# --- damage -----------------------------------------------------------------------------------------------------------

HEADER = module._HEADER.size
FLIPS = [0, 7, 8, 12, 16, 31, 32, HEADER - 1, HEADER, HEADER + 1, HEADER + 170, -1]


@pytest.mark.parametrize("place", FLIPS)
def test_flipped_bits_are_healed_and_never_returned(cache, place):
    server = Server(size=2 * SMALL + 345)
    for number in range(3):
        server.read(cache)
        path = block_files(cache.folder)[number]
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << random.Random(place).randrange(8)
        path.write_bytes(data)
        another_process()
        first, last = number * SMALL, min((number + 1) * SMALL, server.version.size)
        assert server.read(cache) == [(first, last)]
        another_process()
        assert server.read(cache) == []


@pytest.mark.parametrize("size", [0, 1, HEADER - 1, HEADER, HEADER + 1, -1, "longer"])
@pytest.mark.parametrize("known", [False, True])
def test_files_of_another_length_are_healed(cache, size, known):
    server = Server(size=2 * SMALL + 345)
    for number in range(3):
        server.read(cache)
        assert server.read(cache) == []
        path = block_files(cache.folder)[number]
        data = path.read_bytes()
        path.write_bytes(data + b"x" if size == "longer" else data[:size])
        if not known:
            another_process()
        assert len(server.read(cache)) == 1
        assert server.read(cache) == []


def test_a_bad_block_is_deleted_even_if_it_cannot_be_fetched(cache):
    server = Server()
    server.read(cache, 0, 10)
    (path,) = block_files(cache.folder)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    another_process()
    with pytest.raises(TimeoutError):
        cache.read(URL, server.version, 0, 10, failing)
    assert not path.exists()


def test_a_block_in_the_place_of_another_is_not_taken_for_it(cache):
    server, other, new = Server(), Server("s3://bucket/other"), Server(tag="two")
    for each in (server, other, new):
        each.read(cache, 0, 2 * SMALL)
        (each.folder,) = {path.parent for path in block_files(cache.folder)} - {
            getattr(before, "folder", None) for before in (server, other, new)
        }
    for source in (other.folder / "0.block", new.folder / "0.block", server.folder / "1.block"):
        (server.folder / "0.block").write_bytes(source.read_bytes())
        another_process()
        assert server.read(cache, 0, 2 * SMALL) == [(0, SMALL)]


def test_a_folder_that_is_deleted_meanwhile_is_made_again(cache):
    server = Server()
    server.read(cache)
    subprocess.run(["rm", "-r", cache.folder], check=True)
    assert server.read(cache) == [(0, 10_345)]
    assert server.read(cache) == []


# --- fetches and disks that fail --------------------------------------------------------------------------------------


def failing(first, last):
    raise TimeoutError("no answer")


def test_a_fetch_that_raises_leaves_nothing_wrong(cache):
    server = Server()
    server.read(cache, 3000, 3001)

    def fails_later(first, last):
        return failing(first, last) if first else server.fetch(first, last)

    for fetch in (failing, fails_later):
        with pytest.raises(TimeoutError, match="no answer"):
            cache.read(URL, server.version, 0, 6000, fetch)
    with pytest.raises(TimeoutError):
        cache.read(URL, Version(10_345, "never seen"), 0, 6000, failing)
    assert sum(last - first for first, last in server.read(cache)) >= 7345 - SMALL
    assert server.read(cache) == []


@pytest.mark.parametrize("wrong", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_fetch_of_the_wrong_length_is_an_error(cache, wrong):
    server = Server()
    with pytest.raises(StorageError, match=r"s3://bucket/shards/000000.tar: asked for 4,000 bytes, got "):
        cache.read(URL, server.version, 1500, 4200, lambda first, last: memoryview(wrong(bytes(last - first))))
    assert block_files(cache.folder) == []
    assert server.read(cache) == [(0, 10_345)]


def test_a_block_that_cannot_be_written_is_read_all_the_same_with_one_warning(cache):
    server, other = Server(), Server("s3://bucket/other")
    server.read(cache)
    (folder,) = {path.parents[1] for path in block_files(cache.folder)}
    subprocess.run(["rm", "-r", folder], check=True)
    folder.write_text("a file where a folder should be")
    another_process()
    with pytest.warns(RuntimeWarning, match="Make space there, lower cache_bytes") as caught:
        assert server.read(cache) == [(0, 10_345)]
    assert str(cache.folder) in str(caught[0].message)
    assert caught[0].filename == __file__
    assert server.read(cache, 0, 1500) == [(0, 2000)]
    other.read(cache)
    assert other.read(cache) == []
    assert list((cache.folder / "writing").iterdir()) == []


def test_a_full_disk_costs_fetches_and_heals(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        cache, server = BlockCache(disk / "cache", 1 << 30), Server(size=200 * SMALL)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            server.read(cache)
        assert 0 < sum(last - first for first, last in server.read(cache)) < server.version.size
        assert list((cache.folder / "writing").iterdir()) == []
        another_process()
        # What the warning advises; it helps though nothing can be written.
        smaller = BlockCache(cache.folder, 30 * FILE)
        for fetched in ([(0, 2 * SMALL)], []):
            assert server.read(smaller, 0, 2 * SMALL) == fetched
        assert held(cache.folder) <= 30 * FILE
        subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
        server.read(cache)
        assert server.read(cache) == []
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        another_process()
        assert server.read(cache) == []
        with pytest.warns(RuntimeWarning, match="Read-only file system"):
            Server("s3://bucket/other").read(cache)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ConfigError, match=f"cache_dir='{folder}' cannot be made: "):
            Server().read(BlockCache(folder, 100))


# --- what is removed --------------------------------------------------------------------------------------------------


def set_use(path: Path, seconds_ago: float) -> float:
    when = time.time() - seconds_ago
    os.utime(path, (when, when))
    return path.stat().st_mtime


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache, server = BlockCache(tmp_path, 10 * FILE), Server(size=20 * SMALL)
    server.read(cache, 0, 10 * SMALL)
    blocks = block_files(tmp_path)
    assert len(blocks) == 10
    ages = random.Random(0).sample(range(1000, 2000), 10)
    for path, age in zip(blocks, ages, strict=True):
        set_use(path, age)
    used = set(sorted(range(10), key=lambda number: ages[number])[-2:])  # the oldest, but for what follows
    for number in used:
        server.read(cache, number * SMALL, number * SMALL + 1)
    server.read(cache, 11 * SMALL, 11 * SMALL + 1)  # the eleventh: 9 others may stay
    oldest = max(set(range(10)) - used, key=lambda number: ages[number])
    assert {int(path.stem) for path in block_files(tmp_path)} == {*range(10), 11} - {oldest}


def test_use_is_noted_once_a_minute(cache):
    server = Server()
    server.read(cache, 0, 10)
    (path,) = block_files(cache.folder)
    for ago, noted in [(30, False), (90, True), (-3600, True)]:
        before = set_use(path, ago)
        server.read(cache, 0, 10)
        assert (path.stat().st_mtime != before) == noted
        assert not noted or abs(path.stat().st_mtime - time.time()) < 10


def test_an_object_larger_than_the_folder_can_be_read(tmp_path):
    for room in (1, FILE, 4 * FILE):
        server = Server(size=30 * SMALL)
        for _ in range(2):
            assert server.read(BlockCache(tmp_path, room))
            assert held(tmp_path) <= room


def test_all_processes_count_together_and_scan_seldom(tmp_path):
    cache, scans, evict = BlockCache(tmp_path, 100 * FILE), [], BlockCache._evict

    def counted(self, goal):
        scans.append(self)
        evict(self, goal)

    with patch.object(BlockCache, "_evict", counted):
        for number in range(50):
            Server(f"s3://bucket/{number}").read(cache)  # 11 blocks each
            assert held(tmp_path) <= 100 * FILE
            another_process()
        assert 30 < len(scans) < 60
        scans.clear()
        (tmp_path / "written").unlink()
        Server("s3://bucket/0").read(cache)
        assert 1 <= len(scans) <= 3
        assert held(tmp_path) <= 100 * FILE


def test_nothing_else_in_the_folder_is_counted_or_removed(tmp_path):
    mine = [tmp_path / "important.block", tmp_path / "a" / "b" / "0.block", tmp_path / ("a" * 32) / "0.block"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(50 * SMALL))
        set_use(path, 10_000)
    Server(size=100 * SMALL).read(BlockCache(tmp_path, 10 * FILE))
    assert all(path.stat().st_size == 50 * SMALL for path in mine)
    assert 9 * FILE <= held(tmp_path) <= 10 * FILE


def test_folders_of_objects_that_are_gone_are_removed(tmp_path):
    cache = BlockCache(tmp_path, 11 * FILE)
    Server().read(cache)
    before = {path.parents[1] for path in block_files(tmp_path)}
    Server("s3://bucket/other").read(cache)
    Server("s3://bucket/other").read(cache)
    assert not any(path.exists() for path in before)
    assert Server().read(cache) == [(0, 10_345)]


def test_only_one_process_evicts_and_the_others_go_on(tmp_path):
    cache, server = BlockCache(tmp_path, 3 * FILE), Server()
    server.read(cache, 0, 1)
    with (tmp_path / "evicting.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.read(cache)  # three blocks of it, and no more while nobody makes room
        server.read(cache)
        assert [path.stem for path in block_files(tmp_path)] == ["0", "1", "2"]
    server.read(cache, 9_500)
    assert {"9", "10"} <= {path.stem for path in block_files(tmp_path)}
    assert held(tmp_path) <= 3 * FILE


def test_a_block_removed_at_any_step_of_a_read_is_fetched(cache):
    """Another process removes everything while this one opens, checks or notes the use of a block."""
    server = Server()
    for function in ("os.fstat", "os.utime", "os.preadv", "hashlib.sha256"):
        owner, name = function.split(".")
        real = getattr(sys.modules[owner], name)
        server.read(cache)
        server.read(cache)
        for path in block_files(cache.folder):
            set_use(path, 1000)
        if owner == "hashlib":
            another_process()

        def removing(*arguments, real=real, **named):
            for path in block_files(cache.folder):
                path.unlink(missing_ok=True)
            return real(*arguments, **named)

        with patch.object(sys.modules[owner], name, removing):
            server.read(cache)
        server.read(cache)


# --- processes that are killed ----------------------------------------------------------------------------------------


def test_a_writer_killed_at_the_last_step_leaves_no_block_and_its_file_is_removed(cache):
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_cache import BlockCache, Server, module\n"
        "module.BLOCK_BYTES = 1000\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Server().read(BlockCache(Path(sys.argv[1]), 1 << 30))"
    )
    done = run_python("-c", script, cache.folder, Path(__file__).parent)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert block_files(cache.folder) == []
    (left,) = (cache.folder / "writing").iterdir()
    assert left.stat().st_size == FILE
    (cache.folder / "written").write_bytes(b".")  # else an eviction would remove it too
    Server().read(cache, 0, 0)  # the first of this process
    assert not left.exists()
    assert Server().read(cache) == [(0, 10_345)]


def test_files_that_are_being_written_are_not_removed_by_others(cache):
    seen, real = [], Path.replace

    def replace(path, target):
        another_process()
        Server().read(cache, 0, 0)  # cleans up, as a process does that begins
        seen.append(path.exists())
        return real(path, target)

    with patch.object(Path, "replace", replace):
        assert Server().read(cache) == [(0, 10_345)]
    assert len(seen) >= 11
    assert all(seen)
    assert Server().read(cache) == []


LOAD_BLOCK, LOAD_SIZE, LOAD_OBJECTS, LOAD_ROOM, LOAD_KILLS = 1 << 16, 37 * (1 << 15) + 77, 3, 12 << 16, 60
LOAD_SECONDS = 200  # where the folder is on a busy disk, each kill can take seconds


def load_read(cache: BlockCache, draw: random.Random) -> None:
    """Read one random range of one object in one of two versions; compare it with the truth."""
    server = Server(f"s3://bucket/{draw.randrange(LOAD_OBJECTS)}", LOAD_SIZE, draw.choice(["one", "one", "two"]))
    start = draw.randrange(LOAD_SIZE)
    server.read(cache, start, min(start + draw.randrange(1, 6 * LOAD_BLOCK), LOAD_SIZE))


def load_worker(cache: BlockCache, reads: int, stop: Path, seed: int, parent: int) -> None:
    """Read in two threads until the stop file is there or the parent is gone; exit with 1 where anything is wrong."""

    def reader(seed):
        try:
            draw = random.Random(seed)
            while not stop.exists() and os.getppid() == parent:
                load_read(cache, draw)
                os.write(reads, b".")
        except BaseException:  # noqa: BLE001 - whatever it is, the launcher reports it
            traceback.print_exc()
            os._exit(1)

    assert not module._known, "a forked process must check blocks itself"
    threads = [threading.Thread(target=reader, args=(seed + number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)


def load(folder: Path) -> None:
    """Have three processes read through one folder; kill one of them again and again. Prints what happened."""
    warnings.simplefilter("error")
    module.BLOCK_BYTES = LOAD_BLOCK
    cache, draw, stop = BlockCache(folder, LOAD_ROOM), random.Random(1), folder.with_name("stop")
    reads = os.open(folder.with_name("reads"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    load_read(cache, draw)
    assert module._known

    def start() -> int:
        seed, parent = draw.randrange(1 << 30), os.getpid()
        if (child := os.fork()) == 0:
            load_worker(cache, reads, stop, seed, parent)
        return child

    children, abandoned, most, kills = [start() for _ in range(3)], 0, 0, 0
    began = time.monotonic()
    while kills < LOAD_KILLS and time.monotonic() - began < LOAD_SECONDS:
        kills += 1
        time.sleep(draw.uniform(0.02, 0.15))
        place = draw.randrange(3)
        os.kill(children[place], signal.SIGKILL)
        _, status = os.waitpid(children[place], 0)
        assert os.WIFSIGNALED(status), f"a reader failed: {status}"
        abandoned += any(f"{children[place]}-" in path.name for path in (folder / "writing").glob("*"))
        most = max(most, sum(path.stat().st_size for path in still_there(folder)))
        children[place] = start()
    stop.touch()
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0, 0], f"readers failed: {statuses}"
    print(
        json.dumps(
            {"kills": kills, "abandoned": abandoned, "most": most, "reads": folder.with_name("reads").stat().st_size}
        )
    )


def still_there(folder: Path) -> list[Path]:
    """Blocks, hard-linked aside, so that an eviction cannot take them away before they are measured."""
    aside = folder.with_name("aside")
    aside.mkdir(exist_ok=True)
    for path in aside.iterdir():
        path.unlink()
    for number, path in enumerate(block_files(folder)):
        try:
            os.link(path, aside / str(number))
        except FileNotFoundError:
            continue
    return list(aside.iterdir())


@pytest.fixture
def memory_path(tmp_path) -> Iterator[Path]:
    """A folder in memory, where there is such a place: a killed process dies only when a disk is done with it."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_processes_that_are_killed_harm_nobody(memory_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", LOAD_BLOCK)
    folder = memory_path / "cache"
    done = run_python(__file__, folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["kills"] == LOAD_KILLS if folder.is_relative_to("/dev/shm") else found["kills"] > 0
    assert found["reads"] > 8 * found["kills"]
    # A tenth more while somebody evicts, a block of each thread, and some that were killed before they counted theirs.
    assert found["most"] < 1.1 * LOAD_ROOM + 12 * (LOAD_BLOCK + HEADER)

    cache, draw = BlockCache(folder, LOAD_ROOM), random.Random(2)
    Server().read(cache, 0, 0)  # the first of this process
    assert list((folder / "writing").iterdir()) == []
    for _ in range(20):
        load_read(cache, draw)
    assert held(folder) <= LOAD_ROOM


if __name__ == "__main__":
    load(Path(sys.argv[1]))
