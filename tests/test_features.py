"""Features: those of the model called on each window's clip, extracted once, loaded in any order."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import wildstream as ws
from wildstream.features import extract as extraction
from wildstream.features.encode import EncodeWindows
from wildstream.features.extract import extract
from wildstream.models.backbones import make_backbone
from wildstream.shards.index import open_index
from wildstream.stream.plan import Order
from wildstream.training.checkpoints import load_checkpoint
from wildstream.training.metrics import compute_metrics

CLIPS = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=3, temporal_sample_interval=2)
PATCHES = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2, patch_h=2, patch_w=2)
IMAGE, VIDEO = "test_vit.r160_in1k", "tiny3d"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of both backbones, so that every call has the same."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (IMAGE, VIDEO):
        torch.manual_seed(3)
        torch.save(make_backbone(name).network.state_dict(), folder / f"{name}.pt")
    return folder


def options(name, weights, style, **more):
    size = 32 if name == VIDEO else 160
    return {"backbone": name, "weights": weights / f"{name}.pt", "style": style, "size": size, "progress": False} | more


def by_model(name, weights, style, shards, tokens):
    """Features by calling the backbone on the clip of every window."""
    network = make_backbone(name, weights=weights / f"{name}.pt").eval()
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (network.spec.mean, network.spec.std))
    dataset = ws.DatasetBuilder(path=shards, style=style).build()
    found = {}
    for batch in dataset.loader(batch_size=1, size=32 if name == VIDEO else 160):
        clip = batch.frames[0] if batch.frames.ndim == 6 else batch.frames[0].unsqueeze(1)  # T, P, C, H, W
        samples = (clip.float() - mean) / std
        with torch.inference_mode():
            parts = samples.transpose(0, 1) if name == VIDEO else samples.flatten(0, 1)
            result = network(parts)  # members, tokens, dim
        kept = {"all": result, "cls": result[:, :1], "pooled": result.mean(dim=1, keepdim=True)}[tokens]
        found[batch.keys[0], int(batch.starts[0])] = kept.flatten(0, 1)
    return found


@pytest.mark.parametrize(
    ("name", "style", "tokens", "dtype", "tolerance"),
    [
        (IMAGE, CLIPS, "pooled", "fp32", 1e-5),
        (IMAGE, CLIPS, "cls", "fp16", 2e-3),
        (IMAGE, PATCHES, "all", "fp32", 1e-5),
        (VIDEO, CLIPS, "all", "fp32", 1e-5),
        (VIDEO, PATCHES, "pooled", "bf16", 1e-2),
    ],
)
def test_features_are_those_of_the_model(tiny_shards, tmp_path, weights, name, style, tokens, dtype, tolerance):
    report = extract(tiny_shards / "train", tmp_path, tokens=tokens, dtype=dtype, **options(name, weights, style))
    expected = by_model(name, weights, style, tiny_shards / "train", tokens)
    dataset = ws.DatasetBuilder(path=tmp_path / "train", style=style, precomputed=True, feature_model=name).build()
    clips = ws.DatasetBuilder(path=tiny_shards / "train", style=style).build()
    assert len(dataset) == len(expected) == report.ledger.delivered
    assert np.array_equal(dataset.labels(), clips.labels())
    seen = 0
    for batch in dataset.loader(batch_size=5, shuffle=True, seed=1):
        for key, start, features, real in zip(
            batch.keys, batch.starts.tolist(), batch.features, batch.mask.tolist(), strict=True
        ):
            wanted = expected[key, start]
            assert features.shape == wanted.shape
            scale = max(1.0, float(wanted.abs().max()))
            assert float((features.float() - wanted).abs().max()) <= tolerance * scale
            seen += real
    assert seen == len(expected)


@pytest.mark.parametrize(
    "style",
    [
        ws.SlidingStyle(window_size=16, samples_per_window=16, step_size=1),
        ws.SlidingStyle(window_size=16, samples_per_window=4, step_size=3),
        ws.SlidingStyle(window_size=32, samples_per_window=4, step_size=5, temporal_sample_interval=1),
    ],
)
def test_each_frame_goes_through_an_image_backbone_once(tiny_shards, tmp_path, weights, monkeypatch, style):
    counted = []
    run = EncodeWindows._run

    def count(self, parts):
        counted.append(sum(map(len, parts)))
        return run(self, parts)

    monkeypatch.setattr(EncodeWindows, "_run", count)
    monkeypatch.setattr(extraction, "Order", partial(Order, segment_frames=20))
    extract(tiny_shards / "train", tmp_path, **options(IMAGE, weights, style, batch_size=4))
    needed = len(np.unique(style.frames(np.arange(int(style.num_windows(60))), 60)))
    assert len(counted) > 4, "several groups of segments"
    assert sum(counted) == 3 * needed + 1  # and the one that tells the shape


def test_a_loader_of_features_keeps_the_contract(tiny_shards, tmp_path, weights):
    extract(tiny_shards / "train", tmp_path, **options(VIDEO, weights, CLIPS))
    dataset = ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS, precomputed=True).build()
    whole = list(dataset.loader(batch_size=4, shuffle=True, seed=2))
    assert "0 segments" in repr(dataset.loader(batch_size=4, shuffle=True))
    order = [(key, start) for batch in whole for key, start in zip(batch.keys, batch.starts.tolist(), strict=True)]
    assert order != sorted(order)
    # Ranks together give the same sequence; a resume goes on exactly there.
    halves = [dataset.loader(batch_size=2, shuffle=True, seed=2, rank=rank, world_size=2) for rank in range(2)]
    ranks = [[pair for b in half for pair in zip(b.keys, b.starts.tolist(), strict=True)] for half in halves]
    together = [pair for pairs in zip(*ranks, strict=True) for pair in pairs]
    assert together[: len(dataset)] == order[: len(dataset)]
    loader = dataset.loader(batch_size=4, shuffle=True, seed=2)
    taken = iter(loader)
    begun = [next(taken) for _ in range(2)]
    other = dataset.loader(batch_size=4, shuffle=True, seed=2)
    other.load_state_dict(loader.state_dict())
    rest = [batch.features for batch in other]
    assert torch.equal(torch.cat([b.features for b in begun] + rest), torch.cat([b.features for b in whole]))
    assert all(batch.features is None for batch in dataset.loader(batch_size=4, only_labels=True))
    balanced = list(dataset.loader(batch_size=4, sampler="balanced", seed=0))
    assert sum(len(batch) for batch in balanced) >= 4
    unshuffled = [key for batch in dataset.loader(batch_size=4) for key in batch.keys]
    assert unshuffled[: len(dataset)] == sorted(unshuffled[: len(dataset)])


def test_features_in_object_storage(tiny_shards, tmp_path, weights, s3):
    extract(tiny_shards / "train", tmp_path, **options(VIDEO, weights, CLIPS))
    extract(tiny_shards / "train", f"{s3.url}/features", **options(VIDEO, weights, CLIPS))
    url = s3.put_folder(tmp_path, "copied")
    local = ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS, precomputed=True).build()
    expected = {
        (key, start): row
        for batch in local.loader(batch_size=4)
        for key, start, row in zip(batch.keys, batch.starts.tolist(), batch.features, strict=True)
    }
    for place in (f"{s3.url}/features/train", f"{url}/train"):
        remote = ws.DatasetBuilder(path=place, style=CLIPS, precomputed=True).build()
        seen = set()
        for batch in remote.loader(batch_size=4, shuffle=True, seed=0):
            for key, start, row in zip(batch.keys, batch.starts.tolist(), batch.features, strict=True):
                assert torch.equal(row, expected[key, start])
                seen.add((key, start))
        assert seen == set(expected)


@pytest.mark.parametrize("request_bytes", [900, 8 << 20])
@pytest.mark.parametrize("ranks", [1, 2])
def test_features_are_requested_by_the_plan(tiny_shards, tmp_path, weights, s3, monkeypatch, request_bytes, ranks):
    """Each window once over all ranks, also where it lies in several requests, and from the middle of an epoch."""
    monkeypatch.setattr("wildstream.stream.storage.REQUEST_BYTES", request_bytes)
    monkeypatch.setattr("wildstream.stream.storage.AHEAD_BYTES", 20_000)
    monkeypatch.setattr("wildstream.stream.gather.SEGMENT_BYTES", 4_000)
    extract(tiny_shards / "train", tmp_path, **options(VIDEO, weights, CLIPS))
    url = f"{s3.put_folder(tmp_path, 'copied')}/train"
    local = ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS, precomputed=True).build()
    remote = ws.DatasetBuilder(path=url, style=CLIPS, precomputed=True).build()
    expected = {
        (key, start): (row, label)
        for batch in local.loader(batch_size=4)
        for key, start, row, label in zip(batch.keys, batch.starts.tolist(), batch.features, batch.labels, strict=True)
    }
    whole, resumed = [], []
    for rank in range(ranks):
        loader = remote.loader(batch_size=3, shuffle=True, seed=1, rank=rank, world_size=ranks, segment_frames=16)
        for batch in loader:
            for place in torch.nonzero(batch.mask).flatten().tolist():
                address = (batch.keys[place], int(batch.starts[place]))
                row, label = expected[address]
                assert torch.equal(batch.features[place], row)
                assert torch.equal(batch.labels[place], label)
                whole.append(address)
        batches = iter(loader)
        first = next(batches)
        state = loader.state_dict()
        batches.close()
        again = remote.loader(batch_size=3, shuffle=True, seed=1, rank=rank, world_size=ranks, segment_frames=16)
        again.load_state_dict(state)
        for batch in (first, *again):
            resumed += [
                (key, start)
                for key, start, real in zip(batch.keys, batch.starts.tolist(), batch.mask.tolist(), strict=True)
                if real
            ]
    assert sorted(whole) == sorted(expected)
    assert sorted(resumed) == sorted(expected)


def test_what_does_not_fit_is_refused(tiny_shards, tmp_path, weights):
    extract(tiny_shards / "train", tmp_path, **options(VIDEO, weights, CLIPS))
    with pytest.raises(ws.ConfigError, match=r"holds features, precomputed=False"):
        ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS).build()
    with pytest.raises(ws.ConfigError, match=r"holds videos, precomputed=True"):
        ws.DatasetBuilder(path=tiny_shards / "train", style=CLIPS, precomputed=True).build()
    with pytest.raises(ws.ConfigError, match=r"window_size=8, not 4"):
        ws.DatasetBuilder(path=tmp_path / "train", style=PATCHES, precomputed=True).build()
    with pytest.raises(ws.ConfigError, match="feature_model='r3d_18', but the features are of 'tiny3d'"):
        ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS, precomputed=True, feature_model="r3d_18").build()
    with pytest.raises(ws.ConfigError, match="holds features already"):
        extract(tmp_path / "train", tmp_path / "again", **options(VIDEO, weights, CLIPS))
    with pytest.raises(ws.ConfigError, match="tiny3d has no class token"):
        extract(tiny_shards / "train", tmp_path / "cls", tokens="cls", **options(VIDEO, weights, CLIPS))


@pytest.mark.parametrize("name", [IMAGE, VIDEO])
def test_what_does_not_decode_is_named_counted_and_masked(tiny_shards, tmp_path, weights, name):
    shutil.copytree(tiny_shards / "train", tmp_path / "train")
    index = open_index(tmp_path / "train")
    shard, offset, size = index.place(1)
    with Path(shard).open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(bytes(size // 2))
    clips = ws.DatasetBuilder(path=tmp_path / "train", style=CLIPS).build().loader(batch_size=4, max_skipped=0.9)
    lost = {(batch.keys[row], int(batch.starts[row])) for batch in clips for row in batch.problems}
    assert 0 < len(lost) < len(clips.index) * 20
    given = options(name, weights, CLIPS)
    with pytest.raises(ws.SampleError, match=f"more than max_skipped=0.01:\n.*{index.keys[1]}"):
        extract(tmp_path / "train", tmp_path / "strict", **given)
    report = extract(tmp_path / "train", tmp_path / "features", max_skipped=0.9, **given)
    again = extract(tmp_path / "train", tmp_path / "features", max_skipped=0.9, **given)
    assert report.ledger.num_skipped == again.ledger.num_skipped == len(lost)
    assert again.reused == 3
    dataset = ws.DatasetBuilder(path=tmp_path / "features" / "train", style=CLIPS, precomputed=True).build()
    loader = dataset.loader(batch_size=4, shuffle=True, max_skipped=0.9)
    masked = {(batch.keys[row], int(batch.starts[row])) for batch in loader for row in batch.problems}
    assert masked == lost
    assert loader.ledger.num_skipped == len(lost)
    # The other windows are those of the model, also next to the damage.
    expected = by_model(name, weights, CLIPS, tiny_shards / "train", "pooled")
    for batch in loader:
        for row in batch.mask.nonzero().flatten().tolist():
            wanted = expected[batch.keys[row], int(batch.starts[row])]
            assert float((batch.features[row].float() - wanted).abs().max()) < 5e-3 * max(1, float(wanted.abs().max()))


PROGRAM = """
    import sys
    import wildstream as ws
    from wildstream.features.extract import extract
    weights, shards, out = sys.argv[1:4]
    style = ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=1)
    extract(shards, out, backbone="test_vit.r160_in1k", weights=weights, style=style, size=160, shard_bytes=1,
            batch_size=4, device="cpu", progress=False)
"""


def start(weights, shards, out, *launcher):
    program = out.parent / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*(launcher or [sys.executable]), str(program), str(weights / f"{IMAGE}.pt"), str(shards), str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".tar"}


@pytest.mark.slow
def test_two_ranks_make_the_same_shards_as_one(tiny_shards, tmp_path, weights):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        assert start(weights, tiny_shards / "train", tmp_path / name, *launcher).wait(240) == 0
    one, two = (contents(tmp_path / name / "train") for name in ("one", "two"))
    assert len(one) == 3
    assert one == two
    assert open_index(tmp_path / "one" / "train").fingerprint == open_index(tmp_path / "two" / "train").fingerprint


MOTHER = """
    import os, sys
    import av, timm  # what extraction imports only when it needs it, so that no child has to
    import wildstream as ws
    from wildstream.features.extract import extract
    weights, shards = sys.argv[1:3]
    style = ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=1)
    print("ready", flush=True)
    for line in sys.stdin:  # each line is a folder; nothing was computed before the fork
        if not (child := os.fork()):
            extract(shards, line.strip(), backbone="test_vit.r160_in1k", weights=weights, style=style, size=160,
                    shard_bytes=1, batch_size=4, device="cpu", progress=False)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_it_goes_on_and_ends_with_the_same_shards(tiny_shards, tmp_path, weights):
    """Killed ten times, each at a random moment after an attempt began to write; importing is done once for all."""
    command = [sys.executable, "-c", textwrap.dedent(MOTHER), str(weights / f"{IMAGE}.pt"), str(tiny_shards / "train")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    random = np.random.default_rng(0)
    wild, kills = tmp_path / "wild", 0
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mother:

        def begin(folder):
            mother.stdin.write(f"{folder}\n")
            mother.stdin.flush()
            return int(mother.stdout.readline())

        def listen(status, ended):
            status.append(mother.stdout.readline())
            ended.set()

        assert mother.stdout.readline() == "ready\n"
        began = time.monotonic()
        begin(tmp_path / "calm")
        assert mother.stdout.readline() == "0\n"
        duration = time.monotonic() - began
        while kills < 10:
            for path in list(wild.rglob("*.tmp")):
                path.unlink()  # so that it is seen when this attempt begins to write
            child = begin(wild)
            ended = threading.Event()
            status = []
            waiter = threading.Thread(target=listen, args=(status, ended))
            waiter.start()
            while not ended.is_set() and not list(wild.rglob("*.tmp")):
                time.sleep(0.002)
            if not ended.wait(random.uniform(0, duration / 3)):
                with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment before: no kill to count
                    os.kill(child, signal.SIGKILL)
            waiter.join()
            if status == ["9\n"]:
                kills += 1
            else:
                assert status == ["0\n"]
                shutil.rmtree(wild)
        begin(wild)
        assert mother.stdout.readline() == "0\n"
        mother.stdin.close()
    assert contents(wild / "train") == contents(tmp_path / "calm" / "train")
    assert not [path for path in wild.iterdir() if path.name != "train"]


def test_a_head_learns_from_features_what_it_would_learn_from_clips(shared_data, tmp_path, weights, capsys):
    """Real behaviour: packed, extracted, trained on by train.py's own way; evaluated on features of another split."""
    shards, features = tmp_path / "shards", tmp_path / "features"
    ws.pack(shared_data / "behaviour", shards, format="frames", progress=False)
    style = "{window_size: 16, samples_per_window: 4, step_size: 8}"
    spelt = ws.SlidingStyle(window_size=16, samples_per_window=4, step_size=8)
    for split in ("train", "val"):
        extract(shards / split, features, **options(IMAGE, weights, spelt, size=96))
    overrides = [f"data.path={features}", "data.precomputed=true", f"data.style={style}", f"model.backbone={IMAGE}"]
    overrides += [
        "model.classifier=linear",
        "trainer.epochs=8",
        "trainer.batch_size=16",
        "trainer.lr=0.01",
        "trainer.wandb=disabled",
    ]
    run = ws.train(ws.compose_config([*overrides, "trainer.progress=false", f"trainer.out={tmp_path / 'run'}"]))
    evaluation = ws.evaluate(run, split="val", progress=False)
    # The same head, end to end on clips with the backbone left alone.
    model, manifest = load_checkpoint(run / "best")
    assert manifest.features.backbone == IMAGE
    whole = ws.ModelBuilder().set_backbone(IMAGE, weights=weights / f"{IMAGE}.pt")
    whole = whole.set_classifier("linear", output_dim=len(manifest.categories)).build().eval()
    whole.classifier.load_state_dict(model.classifier.state_dict())
    clips = ws.DatasetBuilder(path=shards / "val", style=spelt).build().loader(batch_size=16, size=96)
    scores, targets = [], []
    with torch.inference_mode():
        for batch in clips:
            scores.append(whole(batch.frames)[batch.mask])
            targets.append(batch.labels[batch.mask])
    end_to_end = compute_metrics(torch.cat(scores).sigmoid().numpy(), torch.cat(targets).numpy(), task="multi_label")
    by_features = json.loads(evaluation.report.read_text())["metrics"]["mAP"]
    assert by_features == pytest.approx(end_to_end["mAP"], abs=5e-3)
    with pytest.raises(ws.ConfigError, match="feature_model='tiny3d', but the features are of"):
        ws.train(ws.compose_config([*overrides[:3], "model.backbone=tiny3d", "trainer.wandb=disabled"]))
