"""Training from a checkpoint: what fits is taken over, rows stay with their classes, the rest is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import CATEGORIES, frames_shards, frames_source, history, tiny_config, weights

from wildstream.config.train import TrainConfig
from wildstream.errors import ConfigError, ShardError
from wildstream.models.hierarchy import Hierarchy, make_hierarchy
from wildstream.shards.pack import pack
from wildstream.training.checkpoints import Manifest, build_model, load_checkpoint, save_checkpoint
from wildstream.training.finetuning import start_from
from wildstream.training.run import train

MORE = ["never", "fly", "red", "bright"]
"""CATEGORIES in another order, and one more."""
EXTENSIBLE = "model.classifier=extensible"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the same videos with the classes of MORE."""
    root = shutil.copytree(frames_source(tmp_path_factory), tmp_path_factory.mktemp("more") / "source")
    (root / "categories.json").write_text(json.dumps(MORE))
    for path in root.rglob("*.tsv"):
        rows = np.loadtxt(path, dtype=int)
        columns = [rows[:, CATEGORIES.index(name)] if name in CATEGORIES else 1 - rows[:, 0] for name in MORE]
        np.savetxt(path, np.stack(columns, axis=1), fmt="%d", delimiter="\t")
    pack(root, root.with_name("shards"), format="frames", progress=False)
    return root.with_name("shards")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rows that can be kept."""
    return train(tiny_config(shards, tmp_path_factory.mktemp("run") / "run", EXTENSIBLE, "trainer.lr=0.02"))


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def begin(
    folder: Path, config: TrainConfig, categories: list[str], hierarchy: Hierarchy | None = None
) -> tuple[torch.nn.Module, str]:
    """A new model with the weights of a checkpoint, and what is said of its classes."""
    manifest = load_checkpoint(folder)[1] if hierarchy is None else None
    known = describe(config, categories, hierarchy) if manifest is None else manifest
    known = known.model_copy(update={"categories": categories, "hierarchy": hierarchy})
    model = build_model(config.model, num_classes=len(categories), hierarchy=hierarchy)
    return model, start_from(folder, model, config, known)


def describe(config: TrainConfig, categories: list[str], hierarchy: Hierarchy | None) -> Manifest:
    """What is known of a checkpoint that nobody trained."""
    return Manifest(
        config=config,
        categories=categories,
        hierarchy=hierarchy,
        task="multi_label",
        style=config.data.sliding_style.as_dict(),
        size=(32, 32),
        fingerprint="",
        epoch=1,
        metrics={},
        commit=None,
        versions={},
    )


def frames(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (5, 4, 3, 32, 32), dtype=torch.uint8, generator=generator)


# --- classes that are added -------------------------------------------------------------------------------------------


def test_known_classes_keep_their_rows_to_the_bit_and_their_scores(run, more, tmp_path):
    before, _ = load_checkpoint(run / "best")
    after, told = begin(run / "best", tiny_config(more, tmp_path, EXTENSIBLE), MORE)
    places = [MORE.index(name) for name in CATEGORIES]
    with torch.inference_mode():
        old, new = before.eval()(frames()), after.eval()(frames())
    assert new.shape == (5, 4)
    # Not to the bit: in which order a matrix product adds up depends on its size, so on how many classes there are.
    torch.testing.assert_close(new[:, places], old, rtol=1e-6, atol=1e-6)
    body = {name: it for name, it in before.state_dict().items() if not name.startswith("classifier.")}
    assert all(torch.equal(after.state_dict()[name], it) for name, it in body.items())
    assert torch.equal(after.classifier.weight[places], before.classifier.weight)
    assert torch.equal(after.classifier.bias[places], before.classifier.bias)
    assert told == f"from {run / 'best'}: 3 classes are known, new: fly"


def test_a_training_starts_from_there_and_goes_on_without_it(run, more, tmp_path, capsys):
    copy = shutil.copytree(run / "best", tmp_path / "start")
    options = (EXTENSIBLE, f"model.checkpoint={copy}", "trainer.lr=1e-12", "trainer.weight_decay=0")
    config = tiny_config(more, tmp_path / "run", *options, "trainer.resume=auto", "model.weights=/nowhere")
    done = train(config)
    places = [MORE.index(name) for name in CATEGORIES]
    before, after = weights(run, "best"), weights(done)
    torch.testing.assert_close(after["classifier.weight"][places], before["classifier.weight"], rtol=0, atol=1e-7)
    body = [name for name, _ in load_checkpoint(copy)[0].named_parameters() if not name.startswith("classifier")]
    for name in body:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7)
    assert "3 classes are known, new: fly" in capsys.readouterr().out
    shutil.rmtree(copy)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)  # complete; nothing is read from the start any more
    assert len(history(done)) == 1
    assert load_checkpoint(done / "best")[1].categories == MORE


@pytest.mark.parametrize("classifier", ["linear", "mlp", "extensible"])
def test_of_the_same_classes_everything_is_taken(shards, tmp_path, classifier):
    config = tiny_config(shards, tmp_path, f"model.classifier={classifier}")
    torch.manual_seed(1)
    before = build_model(config.model, num_classes=3)
    save_checkpoint(tmp_path / "best", before, describe(config, CATEGORIES, None))
    after, told = begin(tmp_path / "best", config, CATEGORIES)
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert told.endswith(": 3 classes are known")


def test_rows_of_a_linear_classifier_can_be_kept_by_an_extensible_one(shards, tmp_path):
    config = tiny_config(shards, tmp_path, "model.classifier=linear")
    before = build_model(config.model, num_classes=3)
    save_checkpoint(tmp_path / "best", before, describe(config, CATEGORIES, None))
    after, _ = begin(tmp_path / "best", tiny_config(shards, tmp_path, EXTENSIBLE), MORE)
    assert torch.equal(after.classifier.weight[[3, 2, 0]], before.classifier.weight)


# --- levels -----------------------------------------------------------------------------------------------------------


def test_rows_stay_with_their_classes_level_by_level(shards, tmp_path):
    config = tiny_config(shards, tmp_path, EXTENSIBLE)
    old = make_hierarchy(["a", "b", "c", "d"], ("s", "g"), {"a": ("x",), "b": ("x",), "c": ("y",), "d": ("y",)})
    labels = np.eye(4)[[0, 0, 1, 1, 2, 3]]
    old = old.merge_rare(labels, min_samples=2)
    assert [level.classes for level in old.levels] == [("a", "b", "other"), ("x", "y")]
    before = build_model(config.model, num_classes=4, hierarchy=old)
    save_checkpoint(tmp_path / "best", before, describe(config, ["a", "b", "c", "d"], old))
    names = ["e", "d", "c", "b", "a"]
    parents = {"a": ("x", "k"), "b": ("x", "k"), "c": ("y", "k"), "d": ("y", "k"), "e": ("z", "l")}
    new = make_hierarchy(names, ("s", "g", "f"), parents)
    after, told = begin(tmp_path / "best", config, names, new)
    with torch.inference_mode():
        scores = [level.split(model.eval()(frames())) for level, model in ((old, before), (new, after))]
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(scores[1]["s"][:, [4, 3]], scores[0]["s"][:, :2], **close)
    assert new.levels[1].classes == ("z", "y", "x")
    torch.testing.assert_close(scores[1]["g"][:, [2, 1]], scores[0]["g"], **close)
    for number, rows in ((0, [4, 3]), (1, [2, 1])):
        first, second = (model.classifier.levels[number] for model in (before, after))
        assert torch.equal(second.weight[rows], first.weight[:2])
        assert torch.equal(second.bias[rows], first.bias[:2])
    assert [line.split(": ", 1)[1] for line in told.splitlines()] == [
        "s: 2 classes are known, new: e, d, c",  # other is gone, since its classes have their own rows now
        "g: 2 classes are known, new: z",
        "f: all 2 classes are new",
    ]


def test_levels_can_be_added_to_a_model_without_any(run, shards, tmp_path):
    sight = {"bright": ("seen",), "red": ("seen",), "never": ("unseen",)}
    hierarchy = make_hierarchy(CATEGORIES, ("what", "sight"), sight)
    after, told = begin(run / "best", tiny_config(shards, tmp_path, EXTENSIBLE), CATEGORIES, hierarchy)
    before, _ = load_checkpoint(run / "best")
    with torch.inference_mode():
        torch.testing.assert_close(after.eval()(frames())[:, :3], before.eval()(frames()), rtol=1e-6, atol=1e-6)
    assert torch.equal(after.classifier.levels[0].weight, before.classifier.weight)
    assert told.splitlines()[1].endswith("sight: all 2 classes are new")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "categories", "message"),
    [
        (
            ["model.classifier=linear"],
            MORE,
            r"the checkpoint does not know fly\. Rows are kept with .*extensible alone",
        ),
        (["model.classifier=linear"], CATEGORIES[::-1], r"the classes come in another order\. Rows are kept"),
        (["model.classifier=mlp"], MORE, "the checkpoint does not know fly"),
        (
            ["model.classifier=mlp"],
            CATEGORIES,
            r"its classifier is of another kind\. Take the model\.classifier that it was",
        ),
        ([EXTENSIBLE], ["red", "fly", "never"], r"bright would be lost, which the checkpoint knows"),
        ([EXTENSIBLE, "model.pooling=attention"], CATEGORIES, r"does not fit in .*Take the same model\.pooling"),
        (
            [EXTENSIBLE, "model.backbone=test_convnext"],
            CATEGORIES,
            r"model\.backbone=test_byobnet \(here test_convnext\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(run, shards, tmp_path, options, categories, message):
    with pytest.raises(ConfigError, match=message):
        begin(run / "best", tiny_config(shards, tmp_path, *options), categories)


def test_what_is_no_checkpoint_is_refused_before_anything_is_written(run, shards, tmp_path):
    for folder, message in (
        (run, r"model\.checkpoint=.* is a run\. Give one of its checkpoints, such as RUN/best"),
        (tmp_path, r"is no checkpoint\. Give one, such as RUN/best"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tiny_config(shards, tmp_path / "run", EXTENSIBLE, f"model.checkpoint={folder}"))
        AcceleratorState._reset_state(reset_partial_state=True)
    broken = shutil.copytree(run / "best", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ShardError, match=r"model\.safetensors does not fit manifest\.json, or is damaged"):
        train(tiny_config(shards, tmp_path / "run", EXTENSIBLE, f"model.checkpoint={broken}"))
    assert not (tmp_path / "run").exists()
