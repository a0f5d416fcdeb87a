"""Shards that others made: their index, where they lie; the same as that of `pack` for the same shards."""

import io
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from conftest import TINY_CATEGORIES, contents, moving_pattern, read_tensor, write_video
from test_damage import ENCODINGS, damage, packets_of

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError, FormatError, SampleError, StorageError
from wildstream.probe import probe
from wildstream.shards import adopt, shard_files
from wildstream.shards.adopt import REPORT_NAME, index_shards
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.shards.tar import Member, read_tar

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
FRAMES = 12


def indexed(shards, **options):
    return index_shards(shards, progress=False, workers=2, **options)


def batches(path):
    return list(ws.DatasetBuilder(path=path, style=STYLE).build().loader(batch_size=4, shuffle=True, seed=1, size=32))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.starts, other.starts)
        assert one.keys == other.keys


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    """Four videos of 12 frames."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", moving_pattern(seed, FRAMES, 32, 32))
    return [(folder / f"{seed}.mp4").read_bytes() for seed in range(4)]


@pytest.fixture
def copied(tiny_shards, tmp_path) -> Path:
    """The shards of a packed split, without their index."""
    folder = tmp_path / "copied"
    shutil.copytree(tiny_shards / "train", folder)
    for name in ("index.parquet", "dataset.json"):
        (folder / name).unlink()
    return folder


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """A folder for temporary files, which is empty when the test is over."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def write_shard(path: Path, samples: list[dict]) -> Path:
    """A shard as webdataset writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def refusals(report) -> dict[str, str]:
    return {entry.path: entry.reason for entry in report.refused}


# --- the same as pack ------------------------------------------------------------------------------------------------


def test_the_index_of_packed_shards_made_anew_is_that_of_pack(copied, tiny_shards):
    before = contents(copied)
    report = indexed(copied)
    assert report.indexed == 3
    assert not report.refused
    packed, made = (pq.read_table(folder / "index.parquet") for folder in (tiny_shards / "train", copied))
    assert made.schema.remove_metadata() == packed.schema.remove_metadata()
    for name in packed.column_names:  # ctime and source too: they stand in the samples' json
        assert made[name].to_pylist() == packed[name].to_pylist(), name
    info, told = (json.loads((folder / "dataset.json").read_text()) for folder in (copied, tiny_shards / "train"))
    assert {name: (value, told[name]) for name, value in info.items() if value != told[name]} == {
        "format": ("webdataset", "frames"),
        "split": ("copied", "train"),
    }
    after = contents(copied)
    assert {name: after[name] for name in before} == before, "the shards are as they were"
    assert set(after) - set(before) == {"index.parquet", "dataset.json", REPORT_NAME}
    assert ws.verify(copied, progress=False) == []
    assert_same(batches(copied), batches(tiny_shards / "train"))


def test_single_label_is_as_packed(tmp_path, clips):
    source = tmp_path / "source" / "train"
    for number, name in enumerate(("calm", "wild")):
        (source / name).mkdir(parents=True)
        (source / name / f"{number}.mp4").write_bytes(clips[number])
        (source / name / f"{number}.txt").write_text(f"{number}\n")
    pack(source.parent, tmp_path / "packed", format="videos", progress=False)
    report = indexed(tmp_path / "packed" / "train", out=tmp_path / "index")
    assert report.indexed == 2
    packed, made = ws.open_index(tmp_path / "packed" / "train"), ws.open_index(tmp_path / "index")
    assert made.fingerprint == packed.fingerprint
    assert made.info.task == "single_label"
    assert made.categories == ["calm", "wild"]
    assert_same(batches(tmp_path / "index"), batches(tmp_path / "packed" / "train"))


def test_damaged_and_shortened_videos_are_as_packed(tiny_source, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_source, source)
    first, second = (source / "train" / name / f"{name}.mp4" for name in ("v0", "v1"))
    first.write_bytes(damage(read_tensor(first), 18).numpy().tobytes())
    write_video(second, moving_pattern(1), **ENCODINGS["hevc.mp4"])
    whole = read_tensor(second)
    for _, place, size, _ in packets_of(whole)[-3:]:
        whole[place : place + size] = 255
    second.write_bytes(whole.numpy().tobytes())
    labels = second.with_suffix(".tsv")
    left = probe(read_tensor(second)).num_frames
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:left]))
    packing = pack(source, tmp_path / "packed", format="frames", splits=["train"], progress=False)
    assert packing.damaged
    assert packing.shortened
    report = indexed(tmp_path / "packed" / "train", out=tmp_path / "index")
    assert [entry.reason for entry in report.damaged] == [entry.reason for entry in packing.damaged]
    assert report.damaged[0].path.endswith("000000.tar/v0.mp4")
    assert f"60 frames, the first {left} are indexed" in report.shortened[0].reason
    packed, made = (
        pq.read_table(folder / "index.parquet") for folder in (tmp_path / "packed" / "train", tmp_path / "index")
    )
    assert made.drop(["shard"]).equals(packed.replace_schema_metadata(None).drop(["shard"]))
    with pytest.raises(SampleError, match="do not decode; their windows"):
        indexed(tmp_path / "packed" / "train", out=tmp_path / "other", on_error="fail")


def test_a_second_index_replaces_the_first(copied):
    indexed(copied)
    first = contents(copied)
    indexed(copied)
    assert contents(copied) == first


# --- remote ----------------------------------------------------------------------------------------------------------


def test_beside_remote_shards(s3, copied, tiny_shards, monkeypatch):
    monkeypatch.setattr(shard_files, "FETCHED_BYTES", 10_000)
    url = s3.put_folder(copied, "their/train")
    storage = ws.open_index(tiny_shards / "train").storage
    shards = sum(size for name, size in s3.list().items() if name.endswith(".tar"))
    report = indexed(url, storage=storage)
    assert report.indexed == 3
    assert report.folder == url
    assert storage.objects.traffic["bytes"] == shards, "each shard is read once"
    index = ws.open_index(url)
    assert re.fullmatch(r"index-[0-9a-f]{12}\.parquet", index.info.index)
    assert set(s3.list("their/train/")) == {
        f"their/train/{name}" for name in ("000000.tar", "000001.tar", "dataset.json", index.info.index, REPORT_NAME)
    }
    assert index.info.split == "train"
    assert_same(batches(url), batches(tiny_shards / "train"))
    renamed = indexed(url, categories=["a", "b", "c"])
    assert renamed.indexed == 3
    names = set(s3.list("their/train/"))
    assert f"their/train/{index.info.index}" in names, "the same rows are the same index"
    assert ws.open_index(url).categories == ["a", "b", "c"]


def test_another_index_replaces_the_remote_one_and_nothing_else(s3, copied):
    url = s3.put_folder(copied, "train")
    indexed(str(f"{url}/000000.tar"))
    first = ws.open_index(url)
    assert len(first) == 2
    indexed(url)
    second = ws.open_index(url)
    assert len(second) == 3
    assert f"train/{first.info.index}" not in s3.list()
    # What a dataset.json names that somebody else wrote is not deleted.
    s3.put("train/mine.parquet", s3.get(f"train/{second.info.index}"))
    s3.put("train/dataset.json", second.info.model_copy(update={"index": "mine.parquet"}).model_dump_json().encode())
    assert len(ws.open_index(url)) == 3
    indexed(url)
    assert {"train/mine.parquet", f"train/{second.info.index}"} < set(s3.list())


def test_out_holds_urls_of_remote_shards(s3, copied, tiny_shards, tmp_path):
    s3.put_folder(copied, "train")
    before = s3.list()
    pattern = f"{s3.url}/train/{{000000..000001}}.tar"
    assert main(["index", pattern, "--out", str(tmp_path / "index")]) == 0
    assert s3.list() == before
    info = ws.open_index(tmp_path / "index").info
    assert info.shards == [f"{s3.url}/train/000000.tar", f"{s3.url}/train/000001.tar"]
    assert info.split == "train"
    assert_same(batches(tmp_path / "index"), batches(tiny_shards / "train"))
    assert ws.verify(tmp_path / "index", progress=False) == []


def test_local_shards_from_out_are_absolute(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    indexed("copied", out="index")
    monkeypatch.chdir("/")
    index = ws.open_index(tmp_path / "index")
    assert index.place(0)[0] == str(copied / "000000.tar")
    assert len(batches(tmp_path / "index")) > 0
    assert not (copied / "dataset.json").exists()


def test_http_needs_out(http_folder, copied, tmp_path):
    shutil.copytree(copied, http_folder.root / "train")
    pattern = f"{http_folder.url}/train/{{000000,000001}}.tar"
    with pytest.raises(ConfigError, match="nothing can be written beside"):
        indexed(pattern)
    assert indexed(pattern, out=tmp_path / "index").indexed == 3
    with pytest.raises(StorageError, match="no lists"):
        indexed(f"{http_folder.url}/train", out=tmp_path / "other")


def test_what_breaks_off_leaves_no_temporary_file_and_no_index(s3, copied, monkeypatch, nothing_left):
    url = s3.put_folder(copied, "train")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(adopt, "read_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        indexed(url)
    assert list(nothing_left.iterdir()) == []
    assert "train/dataset.json" not in s3.list()


def test_nothing_is_decoded_where_the_index_could_not_be_written(copied, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(adopt, "read_sample", None)
    with pytest.raises(ConfigError, match="cannot be written to"):
        indexed(copied, out=tmp_path / "file" / "index")


# --- shards of webdataset --------------------------------------------------------------------------------------------


def test_cls_of_others(tmp_path, clips):
    samples = [{"__key__": f"a/clip{n}", "MP4": clip, "cls": f"{n % 2 * 2}".encode()} for n, clip in enumerate(clips)]
    write_shard(tmp_path / "them" / "x-1.tar", samples[:2])
    write_shard(tmp_path / "them" / "x-2.tar", [*samples[2:], {"__key__": "no/label", "mp4": clips[0]}])
    report = indexed(tmp_path / "them", split="test")
    assert report.indexed == 4
    assert list(refusals(report)) == ["x-2.tar/no/label.mp4"]
    index = ws.open_index(tmp_path / "them")
    assert index.keys == [f"a/clip{n}" for n in range(4)]
    assert index.categories == ["0", "1", "2"]
    assert (index.info.task, index.info.split) == ("single_label", "test")
    assert [index.track(n).classes.tolist() for n in range(4)] == [[0], [2], [0], [2]]
    assert index.info.shards == ["x-1.tar", "x-2.tar"]
    assert len(batches(tmp_path / "them")) > 0
    named = tmp_path / "names.json"
    named.write_text(json.dumps(["calm", "wild"]))
    assert main(["index", str(tmp_path / "them"), "--categories", str(named), "--out", str(tmp_path / "i")]) == 3
    assert len(ws.open_index(tmp_path / "i")) == 2, "class 2 is none of two"


def test_rows_of_others_and_what_is_refused(tmp_path, clips, capsys):
    rows = np.arange(FRAMES)[:, None] // np.array([3, 5]) % 2
    good = {"__key__": "good", "mp4": clips[0], "labels.npy": npy(rows), "json": b'{"caption": "not ours"}'}
    bad = {
        "short": {"labels.npy": npy(rows[1:])},
        "narrow": {"labels.npy": npy(rows[:, :1])},
        "soft": {"labels.npy": npy(rows * 0.5)},
        "text": {"labels.npy": npy(rows.astype("U1"))},
        "flat": {"labels.npy": npy(rows[:, 0])},
        "rubbish": {"labels.npy": b"rubbish"},
        "broken": {"mp4": clips[1][:300], "labels.npy": npy(rows)},
        "empty": {"mp4": b"", "labels.npy": npy(rows)},
        "unlabelled": {"txt": b"?"},
        "twice": {"avi": clips[1], "labels.npy": npy(rows)},
        "silent": {"mp4": None, "labels.npy": npy(rows)},
    }
    samples = [
        {k: v for k, v in ({"__key__": key, "mp4": clips[1]} | members).items() if v is not None}
        for key, members in bad.items()
    ]
    write_shard(tmp_path / "them" / "0.tar", [good, *samples, good])
    assert main(["index", str(tmp_path / "them")]) == 3
    told = capsys.readouterr()
    report = json.loads((tmp_path / "them" / REPORT_NAME).read_text())
    found = {entry["path"]: entry["reason"] for entry in report["refused"]}
    assert report["indexed"] == 1
    expected = {
        "short": "has 11 rows, but 12 frames",
        "narrow": "has 1 columns, but there are 2 categories",
        "soft": "every value must be 0 or 1",
        "text": "frames × classes of 0 and 1",
        "flat": "frames × classes of 0 and 1",
        "rubbish": "not a plain array",
        "broken": "",
        "empty": "",
        "unlabelled": "has no labels: no labels.npy or cls among its members .mp4, .txt",
        "twice": "has 2 videos, .avi, .mp4",
        "silent": "has no video",
        "good": "its key 'good' is taken in 0.tar",
    }
    assert len(found) == len(expected)
    for key, reason in expected.items():
        path = next(path for path in found if path.startswith(f"0.tar/{key}"))
        assert reason in found[path]
        assert f"refused  {path}: {found[path]}" in told.out
    assert "12 were refused" in told.err
    assert ws.open_index(tmp_path / "them").track(0).rows().astype(int).tolist() == rows.tolist()
    with pytest.raises(SampleError, match=r"0\.tar/short\.mp4: labels\.npy has 11 rows"):
        indexed(tmp_path / "them", on_error="fail")


@pytest.mark.parametrize("content", [b"-1", b"1.0", b"one", b"", b"1 2", b"9" * 500, b"\xd9\xa1"])
def test_cls_must_be_a_number(tmp_path, clips, content):
    write_shard(tmp_path / "0.tar", [{"__key__": "a", "mp4": clips[0], "cls": content}])
    report = indexed(str(tmp_path / "0.tar"))
    assert report.indexed == 0
    assert "cls must hold one class number" in refusals(report)["0.tar/a.mp4"]
    assert not (tmp_path / "dataset.json").exists()


def test_a_mixture_wants_a_task(tmp_path, clips):
    rows = npy(np.ones((FRAMES, 2), np.uint8))
    samples = [
        {"__key__": "a", "mp4": clips[0], "labels.npy": rows},
        {"__key__": "b", "mp4": clips[1], "cls": b"1"},
        {"__key__": "c", "mp4": clips[2], "cls": b"0", "labels.npy": rows},
    ]
    write_shard(tmp_path / "0.tar", samples)
    with pytest.raises(FormatError, match=r"0\.tar/b\.mp4 has cls, but 0\.tar/a\.mp4 has labels\.npy"):
        indexed(tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    for task, keys in (("multi_label", ["a", "c"]), ("single_label", ["b", "c"])):
        report = indexed(tmp_path, task=task)
        assert ws.open_index(tmp_path).keys == keys
        assert ws.open_index(tmp_path).info.task == task
        assert "has no labels" in report.refused[0].reason


def test_a_json_that_contradicts_its_video_or_the_others_is_refused(copied, tmp_path, clips):
    with tarfile.open(copied / "000001.tar") as tar:
        sample = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in tar}
    told = json.loads(sample["json"])
    other = {"__key__": "w", **sample, "json": json.dumps({**told, "categories": ["x", "y", "z"]}).encode()}
    changed = {"__key__": "x", **sample, "mp4": clips[0], "json": sample["json"]}
    surrogate = {"__key__": "y", **sample, "json": json.dumps({**told, "source": "\ud800"}).encode()}
    write_shard(copied / "000002.tar", [other, changed, surrogate])
    report = indexed(copied)
    assert report.indexed == 4
    assert "its json has other categories" in refusals(report)["000002.tar/w.mp4"]
    assert "checksum in its json" in refusals(report)["000002.tar/x.mp4"]
    assert ws.open_index(copied).categories == TINY_CATEGORIES


def test_options_and_places(tmp_path, copied):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(FormatError, match=r"no \*\.tar in"):
        indexed(tmp_path / "empty")
    with pytest.raises(FormatError, match="is not a folder"):
        indexed(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"000002\.tar"):
        indexed(str(copied / "{000000..000002}.tar"))
    with pytest.raises(ConfigError, match="more than once"):
        indexed(str(copied / "{000000,000000}.tar"))
    with pytest.raises(ConfigError, match="give out="):
        indexed(f"{tmp_path}/{{copied,empty}}/000000.tar")
    with pytest.raises(ConfigError, match="local folder"):
        indexed(copied, out="s3://bucket/x")
    with pytest.raises(ConfigError, match="holds a login"):
        indexed("https://me:secret@host/0.tar", out=tmp_path)
    for options in ({"workers": 0}, {"on_error": "x"}, {"task": "x"}, {"categories": ["a", "a"]}, {"categories": []}):
        with pytest.raises(ConfigError):
            index_shards(copied, **options)


def test_the_script_is_the_command(copied):
    from tiny import ROOT, run_python

    done = run_python(str(ROOT / "tools" / "index_shards.py"), str(copied), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "3 videos" in done.stdout
    assert "2.0/2 shards" in done.stderr


# --- tar -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(tmp_path, form):
    path = tmp_path / "x.tar"
    rng = np.random.default_rng(form)
    with tarfile.open(
        path, "w", format=form, pax_headers={"comment": "of all"} if form == tarfile.PAX_FORMAT else None
    ) as tar:
        for number in range(30):
            folder = "d" * int(rng.integers(1, 99))
            name = f"{folder}/{'ü' if form != tarfile.USTAR_FORMAT else 'u'}{number}" + "n" * int(rng.integers(0, 60))
            info = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else name * int(rng.integers(1, 4)))
            info.size, info.mtime = int(rng.integers(0, 2000)), 10**9 + number
            info.pax_headers = {"SCHILY.xattr.user.x": "y" * 1000} if number % 3 == 0 else {}
            tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
            tar.addfile(tarfile.TarInfo(f"folder{number}") if number % 7 else _folder(number))
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size, info.mtime) for info in tar if info.isreg()]
    found = list(read_tar(path.read_bytes()))
    assert all(isinstance(entry, Member) for entry in found)
    assert [(entry.name, entry.offset, entry.size, entry.mtime) for entry in found] == expected


def _folder(number: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"folder{number}/")
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("zeros", [512, 1024, 10240])
def test_an_end_is_known_by_its_zeros(zeros):
    info = tarfile.TarInfo("a.mp4")
    info.size = 3
    body = info.tobuf() + b"abc".ljust(512, b"\0")
    assert [entry.name for entry in read_tar(body + bytes(zeros))] == ["a.mp4"]
    cut, joined, long = (list(read_tar(body + tail)) for tail in (b"", bytes(zeros) + body, bytes(zeros + (4 << 20))))
    assert "is truncated at byte 1,024: it ends without the two blocks of zeros" in cut[1].reason
    assert "(after member 'a.mp4';" in cut[1].reason
    assert f"goes on at byte {1024 + zeros:,}" in joined[1].reason
    assert "zeros, which no tar writer leaves" in long[1].reason


def test_members_in_a_folder_of_the_tar_and_metadata(tmp_path, clips):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (("__meta__", b"{}"), ("./a.mp4", clips[0]), ("./a.cls", b"0"), ("README", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    report = indexed(tmp_path)
    assert ws.open_index(tmp_path).keys == ["a"]
    assert list(refusals(report)) == ["0.tar/README"]


# ---- classes by name, as video2dataset and others write them ---------------------------------------------------------


def named_shard(tmp_path, tiny_source, labels, *, member="json"):
    """A shard of videos with a json as video2dataset writes it, or a txt."""
    folder = tmp_path / "v2d"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, label in enumerate(labels):
            key = f"{number:09d}"
            video = sorted(tiny_source.rglob("*.mp4"))[number % 4].read_bytes()
            described = {"url": "u", "key": key, "status": "success", "error_message": None, "meta": {"label": label}}
            told = {"json": json.dumps(described | {"caption": label}), "txt": label if isinstance(label, str) else ""}
            for extension, data in (("mp4", video), ("json", told["json"].encode()), ("txt", told["txt"].encode())):
                if extension in ("mp4", "json") or member == "txt":
                    entry = tarfile.TarInfo(f"{key}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return folder


@pytest.mark.parametrize("labels", ["json:caption", "json:meta.label", "txt"])
def test_classes_by_name_as_video2dataset_writes_them(tmp_path, tiny_source, labels):
    told = ["walk", "run", "walk", "swim"]
    folder = named_shard(tmp_path, tiny_source, told, member="txt")
    before = (folder / "00000.tar").read_bytes()
    report = index_shards(folder, labels=labels, progress=False)
    assert report.indexed == 4
    index = open_index(folder)
    assert index.categories == ["run", "swim", "walk"]
    assert index.info.task == "single_label"
    for video, name in enumerate(told):
        rows = index.track(video).rows()
        assert (rows == (np.arange(3) == index.categories.index(name))).all(), "every frame"
    assert (folder / "00000.tar").read_bytes() == before, "in place"


def test_numbers_in_a_json_and_categories_that_were_given(tmp_path, tiny_source):
    folder = named_shard(tmp_path, tiny_source, [10, 9, 10, 2])
    index_shards(folder, labels="json:caption", progress=False)
    assert open_index(folder).categories == ["2", "9", "10"]
    report = index_shards(folder, labels="json:caption", categories=["10", "9"], progress=False)
    assert open_index(folder).categories == ["10", "9"]
    assert ["class '2' is not one of the categories 10, 9" in refusal.reason for refusal in report.refused] == [True]


@pytest.mark.parametrize(
    ("label", "labels", "message"),
    [
        ("", "txt", "is no name of a class but empty, or a caption"),
        ("two\nlines", "json:caption", "is no name of a class but empty, or a caption"),
        ("x" * 500, "json:caption", "is no name of a class but empty, or a caption"),
        (None, "json:caption", "holds None where the name of a class is wanted"),
        (["a", "b"], "json:caption", r"holds \['a', 'b'\] where the name of a class is wanted"),
        (True, "json:caption", "holds True where the name of a class is wanted"),
        ("a", "json:captoin", "has no field 'captoin'; there are caption, error_message"),
        ("a", "json:caption.deeper", "has no field 'caption.deeper'; there are none"),
    ],
)
def test_a_label_that_is_no_name_is_refused(tmp_path, tiny_source, label, labels, message):
    folder = named_shard(tmp_path, tiny_source, ["good", label] if labels != "json:captoin" else [label], member="txt")
    report = index_shards(folder, labels=labels, progress=False)
    assert re.search(message, report.refused[-1].reason), report.refused


def test_without_labels_the_message_says_what_could_be(tmp_path, tiny_source):
    folder = named_shard(tmp_path, tiny_source, ["a"], member="txt")
    report = index_shards(folder, progress=False)
    assert "where that names the class, say labels=txt or labels=json:FIELD" in report.refused[0].reason
    for wrong in ("cls", "json", "json:", "npy"):
        with pytest.raises(ConfigError, match="Take txt, or json:FIELD such as json:label"):
            index_shards(folder, labels=wrong, progress=False)
    with pytest.raises(ConfigError, match="gives one class for each video, not task='multi_label'"):
        index_shards(folder, labels="txt", task="multi_label", progress=False)
