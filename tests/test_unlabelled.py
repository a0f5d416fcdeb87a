"""Frames of which nobody said anything: apart from negatives from the label file to the batch, by brute force."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import read_webdataset
from hypothesis import given
from hypothesis import strategies as st
from test_windows import styles, tracks, windows_by_definition
from tiny import (
    CATEGORIES,
    FRAMES,
    UNLABELLED,
    frames_shards,
    frames_source,
    make_frames_source,
    partly_labelled_shards,
    partly_labelled_source,
)

import wildstream as ws
from wildstream.errors import LabelError, ShardError
from wildstream.features.extract import extract
from wildstream.samples import Batch
from wildstream.shards.adopt import index_shards
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import DATASET_NAME, INDEX_NAME, write_table
from wildstream.shards.label_files import read_frame_rows
from wildstream.shards.labels import LabelTrack
from wildstream.shards.members import read_rows
from wildstream.shards.pack import pack
from wildstream.shards.wildfins import find_saved
from wildstream.stream.samplers import Balanced

STYLE = ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=2, tolerance_region=1)
STYLES = [
    STYLE,
    ws.SlidingStyle(window_size=5, samples_per_window=1, step_size=1, tolerance_region=2, temporal_sample_interval=3),
    ws.SlidingStyle(window_size=1, samples_per_window=1, step_size=1, padding="none"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return partly_labelled_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return partly_labelled_source(tmp_path_factory)


def runs_of(split, video):
    return UNLABELLED.get(f"{split}/{video}", [])


def known_by_definition(split):
    """For each video of a split, frame by frame, whether somebody said what happens."""
    index = {"train": ["v0", "v1", "v2"], "val": ["v0", "v1"], "test": ["v0", "v1"]}[split]
    return {key: [not any(a <= n < b for a, b in runs_of(split, key)) for n in range(FRAMES)] for key in index}


def labelled_by_definition(style, known):
    """Whether all label frames of each window of one video are known."""
    unknown = ~np.array(known, bool)[:, np.newaxis]
    return [not label[0] for _, _, label in windows_by_definition(style, unknown)]


# --- tracks -----------------------------------------------------------------------------------------------------------


@st.composite
def rows_and_known(draw):
    num_frames, num_classes = draw(st.integers(1, 50)), draw(st.integers(1, 3))
    known = np.array(draw(st.lists(st.booleans(), min_size=num_frames, max_size=num_frames)))
    bits = draw(st.lists(st.booleans(), min_size=num_frames * num_classes, max_size=num_frames * num_classes))
    return np.array(bits).reshape(num_frames, num_classes) & known[:, np.newaxis], known


@given(rows_and_known())
def test_rows_and_what_is_known_are_had_again(case):
    rows, known = case
    track = LabelTrack.from_rows(rows, known)
    assert np.array_equal(track.rows(), rows)
    assert np.array_equal(track.known(), known)
    assert track.unlabelled.dtype == np.int32
    assert track.unlabelled.shape == (len(track.unlabelled), 2)
    reached = -1
    for first, stop in track.unlabelled.tolist():
        assert reached < first < stop
        assert not known[first:stop].any()
        reached = stop
    array = track.array()
    assert array.dtype == (np.uint8 if known.all() else np.int8)
    assert array.tolist() == [
        row if there else [-1] * len(row) for row, there in zip(rows.astype(int).tolist(), known, strict=True)
    ]
    found = read_rows(npy(array))
    assert np.array_equal(found.rows, rows)
    assert np.array_equal(found.known, known)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def events(*found):
    return [np.array([event[place] for event in found], np.int32) for place in range(3)]


def runs(*found):
    return np.array(found, np.int32).reshape(-1, 2)


def test_a_track_without_such_frames_is_as_before():
    track = LabelTrack(5, 2, *events((0, 1, 3)))
    assert track.unlabelled.shape == (0, 2)
    assert track.unlabelled.dtype == np.int32
    assert track.known().all()
    assert LabelTrack.from_rows(np.ones((3, 1), bool), np.ones(3, bool)).unlabelled.shape == (0, 2)


@pytest.mark.parametrize(
    ("unlabelled", "complaint"),
    [
        ([(-1, 2)], r"\[-1, 2\) do not lie within 9 frames"),
        ([(7, 10)], r"\[7, 10\) do not lie within 9"),
        ([(3, 3)], r"\[3, 3\) do not lie"),
        ([(4, 2)], r"\[4, 2\) do not lie"),
        ([(4, 6), (1, 2)], r"\[1, 2\) begin where others end, at 6, or before; such runs come in order"),
        ([(1, 3), (3, 5)], r"\[3, 5\) begin where others end, at 3"),
        ([(1, 4), (2, 5)], r"\[2, 5\) begin where others end, at 4"),
        ([(0, 2)], "frame 1 is labelled and unlabelled"),
        ([(2, 3)], "frame 2 is labelled and unlabelled"),
        ([(5, 6), (7, 9)], "frame 7 is labelled and unlabelled"),
        ([(8, 9)], "frame 8 is labelled and unlabelled"),
    ],
)
def test_runs_that_are_none_and_events_in_them_are_refused(unlabelled, complaint):
    labelled = events((0, 1, 4), (1, 6, 7), (0, 6, 9))
    if "labelled and" in complaint:
        with pytest.raises(LabelError, match=complaint):
            LabelTrack(9, 2, *labelled, runs(*unlabelled))
        return
    with pytest.raises(LabelError, match=complaint):
        LabelTrack(9, 2, *events(), runs(*unlabelled))


def test_events_may_touch_what_is_unlabelled():
    track = LabelTrack(9, 2, *events((0, 1, 4), (1, 6, 7)), runs((0, 1), (4, 6), (7, 9)))
    assert track.known().tolist() == [False, True, True, True, False, False, True, False, False]


def test_rows_that_are_labelled_and_not_known_are_refused():
    with pytest.raises(LabelError, match="frame 2 is labelled and unlabelled"):
        LabelTrack.from_rows(np.eye(3, dtype=bool), np.array([True, True, False]))


# --- label files ------------------------------------------------------------------------------------------------------


def test_a_row_of_minus_one_says_that_nobody_looked(tmp_path):
    (tmp_path / "a.tsv").write_text("0\t1\n-1\t-1\n0\t0\n-1\t-1\n\n")
    track = read_frame_rows(tmp_path / "a.tsv", num_frames=4, categories=["a", "b"])
    assert track.known().tolist() == [True, False, True, False]
    assert track.rows().astype(int).tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]]
    (tmp_path / "b.tsv").write_text("-1\n1\n")
    assert read_frame_rows(tmp_path / "b.tsv", num_frames=2, categories=["a"]).known().tolist() == [False, True]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("-1\t0", r"a\.tsv, line 2: -1 beside '0'; a frame is unlabelled for all classes, -1 in every column, or for"),
        ("1\t-1", r"a\.tsv, line 2: -1 beside '1'"),
        ("-1", r"a\.tsv, line 2: 1 columns"),
        ("-1\t-1\t-1", r"a\.tsv, line 2: 3 columns"),
        ("-2\t-2", r"a\.tsv, line 2: '-2' is neither 0 nor 1"),
    ],
)
def test_rows_that_say_half_of_it_are_refused(tmp_path, row, complaint):
    (tmp_path / "a.tsv").write_text(f"-1\t-1\n{row}\n0\t1\n")
    with pytest.raises(LabelError, match=complaint):
        read_frame_rows(tmp_path / "a.tsv", num_frames=3, categories=["a", "b"])


def test_saved_features_of_wildfins_have_no_such_rows(tmp_path):
    (tmp_path / "dino_features").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(2):
        np.save(tmp_path / "dino_features" / f"a_{number:08d}.npy", np.zeros(3, np.float32))
    (tmp_path / "labels" / "a.tsv").write_text("0\t1\n-1\t-1\n")
    with pytest.raises(LabelError, match=r"a\.tsv, line 2: '-1' is neither 0 nor 1"):
        find_saved(tmp_path, categories=["a", "b"], model=None, subset=None, task=None, other_styles=[])


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        ([[0, 1], [-1, 0]], r"labels\.npy, row 1: -1 beside 0; a frame is unlabelled for all classes"),
        ([[-1, -1], [1, -1]], r"labels\.npy, row 1: -1 beside 1"),
        ([[-1, -2], [1, 0]], r"labels\.npy holds -2; every value must be 0 or 1, or -1 in a whole row"),
    ],
)
def test_arrays_that_say_half_of_it_are_refused(array, complaint):
    with pytest.raises(LabelError, match=complaint):
        read_rows(npy(np.array(array, np.int8)))


# --- pack, index ------------------------------------------------------------------------------------------------------


def read_source(source, split, key):
    """The label file of a video, as numbers."""
    return np.loadtxt(source / split / key / f"{key}.tsv", dtype=int)


def assert_tracks(index, source, split):
    for video, key in enumerate(index.keys):
        track = index.track(video)
        assert track.unlabelled.tolist() == [list(run) for run in runs_of(split, key)]
        assert np.array_equal(track.array().astype(int), read_source(source, split, key))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_is_packed_is_what_the_files_say(source, shards, split):
    assert_tracks(open_index(shards / split), source, split)


def test_shards_are_plain_webdataset_with_minus_one_only_where_it_is_needed(source, shards):
    for sample in read_webdataset(*sorted((shards / "train").glob("*.tar"))):
        array, key = np.load(io.BytesIO(sample["labels.npy"])), sample["__key__"]
        assert array.dtype == (np.int8 if runs_of("train", key) else np.uint8)
        assert np.array_equal(array.astype(int), read_source(source, "train", key))


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards_that_are_indexed_anew_have_the_same_tracks(source, shards, tmp_path, split):
    folder = shutil.copytree(shards / split, tmp_path / split)
    for name in (INDEX_NAME, DATASET_NAME):
        (folder / name).unlink()
    assert not index_shards(folder, progress=False).refused
    index, packed = open_index(folder), open_index(shards / split)
    assert_tracks(index, source, split)
    assert index.fingerprint == packed.fingerprint
    assert index.info.schema_version == 2


def test_a_mixed_row_in_a_shard_is_refused_with_file_and_row(shards, tmp_path):
    import webdataset

    (sample, *_) = read_webdataset(next((shards / "train").glob("*.tar")))
    array = np.load(io.BytesIO(sample["labels.npy"])).copy()
    array[5, 1] = 0
    with webdataset.TarWriter(str(tmp_path / "s.tar"), encoder=False) as writer:
        writer.write({"__key__": "x", "mp4": sample["mp4"], "labels.npy": npy(array)})
    (refused,) = index_shards(tmp_path, progress=False).refused
    assert refused.path.endswith("s.tar/x.mp4")
    assert "labels.npy, row 5: -1 beside 0" in refused.reason


def test_only_datasets_with_such_frames_have_the_version_that_older_programs_refuse(shards, tmp_path_factory, tmp_path):
    plain = frames_shards(tmp_path_factory)
    assert json.loads((plain / "train" / DATASET_NAME).read_text())["schema_version"] == 1
    for split in ("train", "val", "test"):
        assert json.loads((shards / split / DATASET_NAME).read_text())["schema_version"] == 2
    # A writer that forgets it makes what nobody opens.
    folder = shutil.copytree(shards / "train", tmp_path / "train")
    info = json.loads((folder / DATASET_NAME).read_text())
    (folder / DATASET_NAME).write_text(json.dumps(info | {"schema_version": 1}))
    with pytest.raises(ShardError, match=r"has unlabelled frames, which takes schema_version=2, but .* has 1"):
        open_index(folder)
    # And an index that has lost the column is not one without such frames.
    (folder / DATASET_NAME).write_text(json.dumps(info))
    write_table(folder / INDEX_NAME, pq.read_table(folder / INDEX_NAME).drop_columns(["unlabelled"]))
    with pytest.raises(ShardError, match=r"columns that it should have are not there \(unlabelled\)"):
        open_index(folder)


def test_an_index_of_before_is_read_and_packed_on(tmp_path_factory, tmp_path):
    plain = frames_shards(tmp_path_factory)
    out = shutil.copytree(plain, tmp_path / "shards")
    for split in ("train", "val", "test"):
        table = pq.read_table(out / split / INDEX_NAME)
        write_table(out / split / INDEX_NAME, table.drop_columns(["unlabelled"]))
    index, now = open_index(out / "train"), open_index(plain / "train")
    assert index.fingerprint == now.fingerprint
    assert all(index.track(video).known().all() for video in range(len(index)))
    assert index.newer_than(0).fingerprint == index.fingerprint
    report = pack(frames_source(tmp_path_factory), out, format="frames", progress=False)
    assert report.reused == {"train": 3, "val": 2, "test": 2}, "what an older program packed is packed anew"


def test_a_fingerprint_without_such_frames_is_that_of_before(tmp_path_factory):
    """By the formula that checkpoints were written with."""
    import hashlib

    index = open_index(frames_shards(tmp_path_factory) / "train")
    table = pq.read_table(frames_shards(tmp_path_factory) / "train" / INDEX_NAME)
    digest = hashlib.sha256(json.dumps([index.keys, index.categories, table["sha256"].to_pylist()]).encode())
    rows = table["events"].to_pylist()
    digest.update(np.array(table["num_frames"].to_pylist(), np.int64).tobytes())
    digest.update(np.cumsum([len(row) for row in rows], dtype=np.int64).tobytes())
    for name in ("class", "first", "stop"):
        digest.update(np.array([event[name] for row in rows for event in row], np.int32).tobytes())
    assert index.fingerprint == digest.hexdigest()[:16]


def test_the_fingerprint_tells_what_is_unlabelled(shards, tmp_path):
    folder = shutil.copytree(shards / "train", tmp_path / "train")
    table = pq.read_table(folder / INDEX_NAME)
    found = set()
    for videos in (
        [[], [], []],
        [[(4, 9)], [], []],
        [[], [(4, 9)], []],
        [[(4, 8)], [], []],
        [[(4, 6), (7, 9)], [], []],
    ):
        named = [[{"first": first, "stop": stop} for first, stop in video] for video in videos]
        changed = table
        for name, values in (("unlabelled", named), ("events", [[]] * 3)):
            place = table.column_names.index(name)
            changed = changed.set_column(place, name, pa.array(values, table.schema.field(name).type))
        write_table(folder / INDEX_NAME, changed)
        found.add(open_index(folder).fingerprint)
    assert len(found) == 5


def test_parts_of_an_index_keep_what_is_unlabelled(shards):
    index = open_index(shards / "train")
    first, *others = index.categories
    mapped = index.with_classes({first: None} | {name: name for name in others})
    for part in (index.newer_than(0), index.of_shards(index.info.shards), mapped, mapped.newer_than(0)):
        for video, key in enumerate(part.keys):
            assert part.track(video).unlabelled.tolist() == [list(run) for run in runs_of("train", key)]
    assert [row["unlabelled"] for row in index.rows()][1] == [{"first": 0, "stop": 3}, {"first": 17, "stop": 20}]
    some = index._only(np.array([False, True, False]))
    assert some.track(0).unlabelled.tolist() == [[0, 3], [17, 20]]


# --- windows ----------------------------------------------------------------------------------------------------------


@given(styles(), tracks(), st.data())
def test_a_window_is_unlabelled_if_one_of_its_label_frames_is(style, track, data):
    bits = data.draw(st.lists(st.booleans(), min_size=track.num_frames, max_size=track.num_frames))
    known = np.array(bits, bool)
    some = LabelTrack.from_rows(track.rows() & known[:, np.newaxis], known)
    expected = np.array(labelled_by_definition(style, known), bool)
    assert style.labelled(some).tolist() == expected.tolist()
    assert style.labelled(track).all()
    count = len(expected)
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, count - 1)), max_size=8 if count else 0)), np.int64)
    assert style.labelled(some, chosen).tolist() == expected[chosen].tolist()
    # Where windows are labelled, their labels are those of the rows.
    expected_labels = [label.tolist() for _, _, label in windows_by_definition(style, some.rows())]
    assert style.labels(some).tolist() == expected_labels


@given(styles(), st.integers(1, 200), st.data())
def test_long_runs_and_gaps(style, num_frames, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, num_frames), max_size=8)))
    found = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    track = LabelTrack(num_frames, 1, *events(), runs(*found))
    assert style.labelled(track).tolist() == labelled_by_definition(style, track.known())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_dataset_knows_its_labelled_windows(shards, split, style):
    dataset = ws.DatasetBuilder(path=shards / split, style=style).build()
    expected = [one for known in known_by_definition(split).values() for one in labelled_by_definition(style, known)]
    assert dataset.labelled().tolist() == expected
    assert not all(expected)
    assert any(expected)


def test_an_empty_dataset_has_no_window(shards):
    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE, min_ctime=1e12).build()
    assert dataset.labelled().shape == (0,)
    assert dataset.labels().shape == (0, len(CATEGORIES))


# --- batches ----------------------------------------------------------------------------------------------------------


def expected_of(dataset):
    """Whether each window is labelled, by address."""
    videos, starts = dataset.addresses()
    keys = [dataset.index.keys[video] for video in videos]
    return dict(zip(zip(keys, starts.tolist(), strict=True), dataset.labelled().tolist(), strict=True))


def assert_delivered(batches, expected):
    """Every window once, and labelled or not by its address; what fills up the last batch too."""
    seen = []
    for batch in batches:
        assert batch.labelled.dtype == torch.bool
        assert batch.labelled.shape == (len(batch),)
        addresses = list(zip(batch.keys, batch.starts.tolist(), strict=True))
        assert batch.labelled.tolist() == [expected[address] for address in addresses]
        assert torch.equal(batch.counts, batch.mask & batch.labelled)
        seen += [address for address, real in zip(addresses, batch.mask.tolist(), strict=True) if real]
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"only_labels": True},
        {"shuffle": True, "seed": 3},
        {"sampler": "random", "only_labels": True},
        {"shuffle": True, "workers": "processes", "num_workers": 2},
    ],
    ids=["frames", "only labels", "shuffled", "random", "processes"],
)
def test_batches_say_which_clips_are_labelled(shards, options):
    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    loader = dataset.loader(batch_size=7, size=16, **options)
    assert_delivered(loader, expected_of(dataset))
    assert loader.ledger.delivered == len(dataset), "windows that are not labelled are delivered"
    assert loader.ledger.num_skipped == 0


def test_ranks_together_have_the_same(shards):
    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    ranks = [dataset.loader(batch_size=3, shuffle=True, only_labels=True, rank=n, world_size=2) for n in range(2)]
    assert_delivered([batch for rank in ranks for batch in rank], expected_of(dataset))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plain_stream_says_the_same(shards):
    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    stream = ws.open_shards([str(path) for path in sorted((shards / "train").glob("*.tar"))])
    recipe = ws.ParseSamples(style=STYLE, num_classes=3), ws.Decode(size=16), ws.Windows()
    shuffled = ws.BufferShuffle(size=5, seed=0)
    assert_delivered(stream.compose(*recipe, shuffled, ws.Batches(size=4)), expected_of(dataset))


def test_a_batch_is_labelled_unless_somebody_says_otherwise():
    parts = {"labels": torch.zeros(2, 3), "keys": ["a", "b"], "starts": torch.zeros(2), "positions": torch.zeros(2)}
    batch = Batch(frames=None, mask=torch.tensor([True, False]), **parts)
    assert batch.labelled.tolist() == [True, True]
    assert batch.counts.tolist() == [True, False]
    assert "unlabelled" not in repr(batch)
    some = Batch(frames=None, mask=torch.tensor([True, True]), labelled=torch.tensor([False, True]), **parts)
    assert some.counts.tolist() == [False, True]
    assert "2 of them count, 1 of these unlabelled" in repr(some)
    moved = some.to("meta")
    assert moved.labelled.device.type == moved.mask.device.type == "meta"
    assert some.to("cpu").labelled.tolist() == [False, True]


def test_features_have_the_same_masks(source, shards, tmp_path):
    """Extraction copies what is unlabelled, into the index and into the shards."""
    extract(shards / "train", tmp_path, backbone="tiny3d", style=STYLE, size=16, progress=False, device="cpu")
    clips = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    features = ws.DatasetBuilder(path=tmp_path / "train", style=STYLE, precomputed=True).build()
    assert features.index.info.schema_version == 2
    assert_tracks(features.index, source, "train")
    assert features.labelled().tolist() == clips.labelled().tolist()
    for options in ({}, {"shuffle": True}, {"only_labels": True}):
        assert_delivered(features.loader(batch_size=7, **options), expected_of(clips))
    for sample in read_webdataset(*sorted((tmp_path / "train").glob("*.tar"))):
        array = np.load(io.BytesIO(sample["labels.npy"]))
        assert np.array_equal(array.astype(int), read_source(source, "train", sample["__key__"]))


# --- samplers ---------------------------------------------------------------------------------------------------------


def test_balanced_draws_what_is_labelled_alone(shards):
    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    labelled, labels = dataset.labelled(), dataset.labels()
    assert labels[~labelled].any(), "of no unlabelled window a label frame has a class: the test would show nothing"
    assert (~labels[~labelled].any(axis=1)).any()
    expected = expected_of(dataset)
    classes = [column for column in (*labels.T, ~labels.any(axis=1)) if (column & labelled).any()]
    for per_class in (None, 2):
        sampler = Balanced(per_class=per_class)
        each = per_class or -(-int(labelled.sum()) // len(classes))
        for epoch in range(4):
            loader = dataset.loader(batch_size=5, sampler=sampler, only_labels=True, seed=1)
            loader.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader) == -(-each * len(classes) // 5)
            assert all(batch.labelled.all() for batch in batches)
            drawn = [address for batch in batches for address in zip(batch.keys, batch.starts.tolist(), strict=True)]
            assert all(expected[address] for address in drawn)
            assert sum(int(batch.mask.sum()) for batch in batches) == each * len(classes)


def test_where_all_is_labelled_balanced_draws_as_before(tmp_path_factory):
    dataset = ws.DatasetBuilder(path=frames_shards(tmp_path_factory) / "train", style=STYLE).build()
    loader = dataset.loader(batch_size=5, sampler="balanced", seed=1)
    expected = Balanced().draw(len(dataset), dataset.labels, np.random.default_rng([1, 0, 1]))
    assert np.sort(loader.plan().order).tolist() == expected.tolist()


def test_other_samplers_are_told_of_all_windows(shards):
    class Last:
        """The last windows, by their numbers."""

        def size(self, num_windows, labels):
            return 4

        def draw(self, num_windows, labels, random):
            assert len(labels()) == num_windows
            return np.arange(num_windows - 4, num_windows)

    dataset = ws.DatasetBuilder(path=shards / "train", style=STYLE).build()
    order = dataset.loader(batch_size=2, sampler=Last()).plan().order
    assert sorted(order.tolist()) == list(range(len(dataset) - 4, len(dataset)))


def test_splits_and_merged_sources_keep_what_is_unlabelled(tmp_path):
    root = make_frames_source(tmp_path / "source", {"all": 4})
    for path in sorted((root / "all").rglob("*.tsv"))[:2]:
        rows = path.read_text().splitlines()
        path.write_text("\n".join(["\t".join(["-1"] * 3)] * 5 + rows[5:]) + "\n")
    ws.pack(root, tmp_path / "shards", format="frames", progress=False)
    before = ws.open_index(tmp_path / "shards" / "all")
    known = {key: before.track(video).known().tolist() for video, key in enumerate(before.keys)}
    assert sum(not all(frames) for frames in known.values()) == 2
    ws.split(tmp_path / "shards" / "all", tmp_path / "split", ratio={"train": 0.5, "val": 0.5}, frames=False)
    found = {}
    for name in ("train", "val"):
        index = ws.open_index(tmp_path / "split" / name)
        found |= {key: index.track(video).known().tolist() for video, key in enumerate(index.keys)}
    assert found == known
    parts = {name: tmp_path / "split" / name for name in ("train", "val")}
    ws.merge(tmp_path / "merged", parts)
    index = ws.open_index(tmp_path / "merged")
    merged = {key.partition("/")[2]: index.track(video).known().tolist() for video, key in enumerate(index.keys)}
    assert merged == known
