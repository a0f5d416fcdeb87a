"""Every classifier can learn: ten windows by heart."""

import pytest
from tiny import CATEGORIES, history, make_frames_source, tiny_config

from wildstream.models.heads import CLASSIFIERS
from wildstream.shards.pack import pack
from wildstream.stream.dataset import DatasetBuilder
from wildstream.stream.windows import SlidingStyle
from wildstream.training.run import train

STYLE = SlidingStyle(window_size=4, samples_per_window=4, step_size=2, padding="edge")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """One video of ten windows to train on."""
    folder = tmp_path_factory.mktemp("ten")
    pack(
        make_frames_source(folder / "source", {"train": 1, "val": 1}),
        folder / "shards",
        format="frames",
        progress=False,
    )
    return folder / "shards"


@pytest.mark.parametrize("classifier", sorted(CLASSIFIERS))
def test_ten_windows_are_learnt_to_a_loss_below_a_hundredth(shards, tmp_path, classifier):
    dataset = DatasetBuilder(path=shards / "train", style=STYLE).build()
    assert len(dataset) == 10
    assert 0 < dataset.labels().sum() < 10 * len(CATEGORIES)
    options = (
        "trainer.epochs=60",
        "trainer.batch_size=10",
        "trainer.lr=2e-2",
        "trainer.weight_decay=0",
        "trainer.clip_norm=null",
    )
    config = tiny_config(shards, tmp_path / "run", *options, "model.backbone=tiny3d", f"model.classifier={classifier}")
    losses = [line["train"]["loss"] for line in history(train(config))]
    assert losses[0] > 0.3
    assert losses[-1] < 0.01
