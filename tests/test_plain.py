"""WebDataset's own streams from object storage: by open_shards, and by webdataset once wildstream is imported."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import webdataset

import wildstream as ws
from wildstream.storage.streams import ObjectFile, ObjectStream

pytestmark = [  # webdataset leaves local files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)


def clips(stream):
    """Addresses and pixels of what a plain stream gives."""
    recipe = ws.ParseSamples(style=STYLE, num_classes=3), ws.Decode(size=16), ws.Windows(), ws.Batches(size=4)
    return [
        (key, start, frames.tolist())
        for batch in stream.compose(*recipe)
        for key, start, frames in zip(batch.keys, batch.starts.tolist(), batch.frames, strict=True)
    ]


@pytest.mark.parametrize("place", ["s3", "http"])
def test_the_same_clips_as_from_local_files(place, request, tiny_shards):
    if place == "s3":
        url = request.getfixturevalue("s3").put_folder(tiny_shards)
    else:
        server = request.getfixturevalue("http_folder")
        shutil.copytree(tiny_shards, server.root / "data")
        url = f"{server.url}/data"
    pattern = "train/{000000..000001}.tar"
    expected = clips(ws.open_shards(tiny_shards / pattern))
    assert len({key for key, _, _ in expected}) == 3
    assert clips(ws.open_shards(f"{url}/{pattern}")) == expected
    assert clips(webdataset.WebDataset(f"{url}/{pattern}", shardshuffle=False)) == expected


OPENING = """
    {first}
    {second}
    import json, sys
    samples = webdataset.WebDataset(sys.argv[1], shardshuffle=False)
    print(json.dumps([sample["__key__"] for sample in samples]))
"""


@pytest.mark.parametrize("order", ["wildstream first", "webdataset first"])
def test_webdataset_opens_the_schemes_whichever_is_imported_first(order, s3, tiny_shards):
    url = s3.put_folder(tiny_shards)
    imports = ["import wildstream", "import webdataset"][:: 1 if order == "wildstream first" else -1]
    program = textwrap.dedent(OPENING).format(first=imports[0], second=imports[1])
    done = subprocess.run(
        [sys.executable, "-c", program, f"{url}/train/000000.tar"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["v0", "v1"]


def test_importing_wildstream_imports_neither_webdataset_nor_torch():
    program = (
        "import wildstream, sys; print([name for name in ('webdataset', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_run_by_leave_alone(tmp_path, tiny_shards):
    shard, proof = tiny_shards / "train" / "000000.tar", tmp_path / "proof"
    command = f"pipe:touch {proof}; cat {shard}"
    for attempt in (
        lambda: ws.open_shards(command),
        lambda: ws.open_index(command),
        lambda: ws.DatasetBuilder(path=command, style=STYLE).build(),
    ):
        with pytest.raises(ws.ConfigError, match="would run a command"):
            attempt()
        assert not proof.exists()
    assert [sample["__key__"] for sample in ws.open_shards(command, allow_pipe=True)] == ["v0", "v1"]
    assert proof.exists()


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_shard_that_was_cut_off_is_an_error_and_not_a_short_stream(place, tiny_shards, tmp_path, request):
    whole = (tiny_shards / "train" / "000000.tar").read_bytes()
    members = whole.index(b"v1.")  # a header: webdataset by itself would end there without a word
    for length in (
        0,
        512,
        members - members % 512,
        len(whole) // 2,
        len(whole.rstrip(b"\0")),
        len(whole.rstrip(b"\0")) + 600,
    ):
        if place == "local":
            shard = tmp_path / "000000.tar"
            shard.write_bytes(whole[:length])
        else:
            bucket = request.getfixturevalue("s3")
            bucket.put("000000.tar", whole[:length])
            shard = f"{bucket.url}/000000.tar"
        with pytest.raises(ws.ShardError, match=r"000000\.tar does not end as a tar ends"):
            list(ws.open_shards(shard))


def test_what_is_not_there_is_named(s3, tmp_path):
    with pytest.raises(ws.ShardError, match="there is no shard"):
        ws.open_shards(tmp_path / "000000.tar")
    with pytest.raises(ws.StorageError, match=r"there is no 000000\.tar in s3://"):
        list(ws.open_shards(f"{s3.url}/000000.tar"))
    with pytest.raises(ws.ConfigError, match="names no shard"):
        ws.open_shards([])


def test_streams_go_on_through_faults(faulty_s3, tiny_shards, monkeypatch):
    monkeypatch.setattr("wildstream.storage.objects.FIRST_PAUSE_SECONDS", 0.01)
    url = faulty_s3.put_folder(tiny_shards)
    expected = clips(ws.open_shards(tiny_shards / "train/{000000..000001}.tar"))
    faulty_s3.proxy.inject({"slow_down": 0.2, "reset": 0.1, "truncated": 0.1}, seed=2)
    assert clips(ws.open_shards(f"{url}/train/{{000000..000001}}.tar")) == expected


def test_files_over_objects_read_as_files_do():
    content = bytes(range(256)) * 40
    reads = []

    def read(start, stop):
        reads.append((start, stop))
        return memoryview(content[start:stop])

    file = ObjectFile(len(content), read)
    assert file.read(10) == content[:10]
    assert file.seek(-5, 2) == len(content) - 5
    assert file.read(100) == content[-5:]
    assert file.read() == b""
    assert file.seek(3) == 3
    assert file.seek(2, 1) == 5
    assert file.read() == content[5:]
    tar = content + bytes(1024)
    assert ObjectStream("a.tar", len(tar), lambda start, stop: memoryview(tar[start:stop])).read() == tar
