"""Packing into object storage: the same split as on local disk, whole or not at all, and never packed twice."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import TINY_FRAMES

import wildstream as ws
from wildstream.cli import main
from wildstream.shards import places
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.shards.pack_report import REPORT_NAME

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def quietly(source, out, **options):
    return pack(source, out, format="frames", progress=False, shard_bytes=1, **options)


def batches(path):
    return list(ws.DatasetBuilder(path=path, style=STYLE).build().loader(batch_size=4, shuffle=True, seed=1, size=16))


@pytest.mark.parametrize("server", ["s3", "radosgw"])
def test_the_same_split_as_on_local_disk(server, request, tiny_source, tmp_path):
    s3 = request.getfixturevalue(server)
    url = f"{s3.url}/shards"
    report = quietly(tiny_source, url)
    expected = quietly(tiny_source, tmp_path / "local")
    assert report.packed == expected.packed
    for split in ("train", "val"):
        remote, local = open_index(f"{url}/{split}"), open_index(tmp_path / "local" / split)
        assert remote.fingerprint == local.fingerprint
        for video in range(len(local)):
            assert remote.checksum(video) == local.checksum(video)
            assert remote.place(video)[1:] == local.place(video)[1:]
        for one, other in zip(batches(f"{url}/{split}"), batches(tmp_path / "local" / split), strict=True):
            assert one.frames.equal(other.frames)
            assert one.keys == other.keys
    assert ws.verify(f"{url}/train", progress=False) == []
    assert json.loads(s3.get(f"shards/{REPORT_NAME}"))["packed"] == report.packed
    names = set(s3.list("shards/train/"))
    index = open_index(f"{url}/train")
    assert {name.rpartition("/")[2] for name in names} == {"dataset.json", index.info.index, *index.info.shards}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "nothing is left on this machine"


def test_a_second_call_packs_nothing_and_another_source_replaces_the_split(tiny_source, s3, tmp_path):
    url = f"{s3.url}/shards"
    quietly(tiny_source, url)
    before = s3.list("shards/")
    again = quietly(tiny_source, url)
    assert again.reused == again.packed
    after = s3.list("shards/")
    assert {name: size for name, size in before.items() if "report" not in name} == {
        name: size for name, size in after.items() if "report" not in name
    }
    changed = tmp_path / "changed"
    shutil.copytree(tiny_source, changed)
    shutil.rmtree(changed / "train" / "v2")
    old = open_index(f"{url}/train").info
    report = quietly(changed, url)
    new = open_index(f"{url}/train")
    assert report.packed["train"] == len(new) == 2
    left = {name.rpartition("/")[2] for name in s3.list("shards/train/")}
    assert left == {"dataset.json", new.info.index, *new.info.shards}
    assert set(old.shards) - set(new.info.shards), "the old objects are gone"


def test_shards_that_were_lost_are_packed_again(tiny_source, s3):
    url = f"{s3.url}/shards"
    quietly(tiny_source, url)
    info = open_index(f"{url}/train").info
    s3.delete(f"shards/train/{info.shards[1]}")
    report = quietly(tiny_source, url)
    assert report.reused["train"] == 2
    assert ws.verify(f"{url}/train", progress=False) == []
    s3.delete("shards/train/dataset.json")
    quietly(tiny_source, url)
    assert ws.verify(f"{url}/train", progress=False) == []


def test_two_machines_at_one_url_leave_no_split_that_names_what_is_gone(tiny_source, s3, tmp_path, monkeypatch):
    """One plans to keep a shard that the other, done first, deletes: it must fail, and say so."""
    url = f"{s3.url}/shards"
    quietly(tiny_source, url)
    sources = {}
    for name, video in (("one", "v0"), ("other", "v1")):
        shutil.copytree(tiny_source, sources.setdefault(name, tmp_path / name))
        file = sources[name] / "train" / video / f"{video}.tsv"
        file.write_text("\n".join(["0\t0\t1"] * TINY_FRAMES) + "\n")
    publish = places.RemotePlace.publish

    def late(self, info, table):
        monkeypatch.setattr(places.RemotePlace, "publish", publish)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
        quietly(sources["one"], url, splits=["train"])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        publish(self, info, table)

    monkeypatch.setattr(places.RemotePlace, "publish", late)
    with pytest.raises(ws.ShardError, match=r"is no longer in .*somebody else packed here meanwhile\. Run it again"):
        quietly(sources["other"], url, splits=["train"])
    assert ws.verify(f"{url}/train", progress=False) == [], "what the first one packed is whole"
    quietly(sources["other"], url, splits=["train"])
    assert ws.verify(f"{url}/train", progress=False) == []
    index = open_index(f"{url}/train")
    assert {name.rpartition("/")[2] for name in s3.list("shards/train/")} == {
        "dataset.json",
        index.info.index,
        *index.info.shards,
    }


def test_plain_http_is_refused_before_anything_is_built(tiny_source, http_folder):
    with pytest.raises(ws.ConfigError, match="plain HTTP is for reading"):
        quietly(tiny_source, f"{http_folder.url}/shards")


PACKING = """
    import sys
    from wildstream.shards.pack import pack
    pack(sys.argv[1], sys.argv[2], format="frames", shard_bytes=1, progress=False)
"""


def test_a_killed_pack_leaves_the_old_split_and_goes_on(tiny_source, faulty_s3):
    """Killed after each of the first uploads; whoever reads meanwhile finds no half of a split."""
    url = f"{faulty_s3.url}/shards"
    faulty_s3.proxy.inject({"slow_first_byte": 1.0}, slow_seconds=0.3)
    kept = set()
    for uploads in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PACKING), str(tiny_source), url])
        while len(tars := [name for name in faulty_s3.list("shards/train/") if name.endswith(".tar")]) < uploads:
            assert process.poll() is None, "packed before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept |= set(tars)
        assert not [name for name in faulty_s3.list("shards/train/") if name.endswith("dataset.json")]
        with pytest.raises(ws.ShardError, match=r"no dataset\.json"):
            open_index(f"{url}/train")
    faulty_s3.proxy.inject()
    report = quietly(tiny_source, url)
    assert report.reused.get("train", 0) >= 1, "what was uploaded is not packed again"
    assert ws.verify(f"{url}/train", progress=False) == []
    assert {name.rpartition("/")[2] for name in kept} <= set(open_index(f"{url}/train").info.shards)


def test_packing_goes_on_through_faults(tiny_source, faulty_s3, monkeypatch, tmp_path):
    monkeypatch.setattr("wildstream.storage.objects.FIRST_PAUSE_SECONDS", 0.01)
    url = f"{faulty_s3.url}/shards"
    faulty_s3.proxy.inject({"slow_down": 0.1, "reset": 0.1}, seed=5)
    quietly(tiny_source, url)
    faulty_s3.proxy.inject()
    quietly(tiny_source, tmp_path / "local")
    assert open_index(f"{url}/train").fingerprint == open_index(tmp_path / "local" / "train").fingerprint
    assert ws.verify(f"{url}/train", progress=False) == []


def test_a_bucket_that_may_not_be_written_is_named_at_once(tiny_source, faulty_s3):
    faulty_s3.proxy.inject({"forbidden": 1.0})
    with pytest.raises(ws.StorageError, match="not permitted"):
        quietly(tiny_source, f"{faulty_s3.url}/shards")


def test_the_command_line_packs_verifies_and_inspects_there(tiny_source, s3, capsys):
    url = f"{s3.url}/shards"
    assert main(["pack", str(tiny_source), url, "--format", "frames"]) == 0
    assert f"train: 3 videos   {url}/train" in capsys.readouterr().out
    assert main(["verify", f"{url}/train"]) == 0
    assert main(["inspect", f"{url}/train", "--style", "frames"]) == 0
    assert f"{url}/train: 3 videos, 180 frames" in capsys.readouterr().out
    assert main(["verify", f"{s3.url}/nothing"]) == 1
    assert "no dataset.json in s3://" in capsys.readouterr().err
