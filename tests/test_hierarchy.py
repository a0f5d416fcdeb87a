"""Hierarchies of classes: their table, labels, losses and figures by brute force, and whole runs with them."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from tiny import (
    CATEGORIES,
    assert_same_run,
    clips_shards,
    frames_shards,
    free_port,
    history,
    run_python,
    stop_after,
    tiny_config,
    tiny_overrides,
    torchrun,
    weights,
)

from wildstream.config.compose import compose_config
from wildstream.errors import ConfigError, Interrupted, ShardError
from wildstream.evaluation.evaluate import evaluate, render
from wildstream.evaluation.predictions_file import read_predictions
from wildstream.models import hierarchy as hierarchy_module
from wildstream.models.hierarchy import Hierarchy, Level, make_hierarchy
from wildstream.models.hierarchy_file import read_hierarchy
from wildstream.samples import Batch
from wildstream.shards.feature_info import FeatureInfo
from wildstream.stream.dataset import DatasetBuilder
from wildstream.training.augmentation import Augment
from wildstream.training.checkpoints import build_model, load_checkpoint
from wildstream.training.losses import Criterion, LevelsCriterion, clip_losses
from wildstream.training.metrics import compute_metrics
from wildstream.training.predict import Predictions, figures_of
from wildstream.training.run import train

SPECIES = ["corvus corax", "parus major", "parus ater"]
TABLE = "species;genus;family\nparus major;parus;paridae\nparus ater;parus;paridae\ncorvus corax;corvus;corvidae\n"
PARENTS = {
    "corvus corax": ("corvus", "corvidae"),
    "parus major": ("parus", "paridae"),
    "parus ater": ("parus", "paridae"),
}
BIRDS = make_hierarchy(SPECIES, ("species", "genus", "family"), PARENTS)
SIGHT = "what;sight\nred;seen\nnever;unseen\nbright;seen\n"
"""Of the tiny videos' categories, bright, red and never."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "sight.csv").write_text(SIGHT)
    return tmp_path / "sight.csv"


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a hierarchy, whose table is gone."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sight.csv").write_text(SIGHT)
    options = (f"model.hierarchy.file={folder}/sight.csv", "model.hierarchy.loss_weights={what: 3, sight: 1}")
    done = train(tiny_config(shards, folder / "run", *options, "trainer.epochs=2", "trainer.lr=0.02"))
    (folder / "sight.csv").unlink()
    return done


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(";", ","),
        TABLE.replace(";", "\t"),
        "\ufeff" + TABLE.replace("\n", "\r\n"),
        "\n" + TABLE.replace("\n", "\n\n").rstrip(),
        TABLE.replace("parus ater", '"parus ater"'),
        TABLE + "pica pica;pica;corvidae\n",
    ],
    ids=["semicolons", "commas", "tabs", "windows", "blank lines", "quotes", "other species"],
)
def test_a_table_is_read_whatever_separates_its_cells(tmp_path, text):
    (tmp_path / "birds.csv").write_text(text, encoding="utf-8", newline="")
    assert read_hierarchy(tmp_path / "birds.csv", categories=SPECIES) == BIRDS


def test_levels_choose_and_order_columns(tmp_path):
    path = tmp_path / "moths.csv"
    path.write_text("speciesName;seen;group;family;genus\na;9;big;f;g1\nb;7;small;f;g2\nc;1;small;f;g2\n")
    found = read_hierarchy(path, categories=["a", "b", "c"], levels=["speciesName", "genus", "family"])
    assert [level.name for level in found.levels] == ["speciesName", "genus", "family"]
    assert [level.classes for level in found.levels] == [("a", "b", "c"), ("g1", "g2"), ("f",)]
    with pytest.raises(ConfigError, match=r"'f' lies in genus 'g1' and 'g2'.*order them: model\.hierarchy\.levels="):
        read_hierarchy(path, categories=["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"birds\.csv is empty\. Its first line must name the levels"),
        (" \n\n", r"birds\.csv is empty"),
        (
            TABLE.replace("parus ater;", "parus atter;"),
            r"lacks 'parus ater': .*Is line 3, 'parus atter', meant for 'parus ater'\?",
        ),
        (TABLE + "parus ater;parus;paridae\n", r"line 5: 'parus ater' stands on line 3 already\. Leave one"),
        (TABLE[: TABLE.index("corvus")], r"lacks 'corvus corax': the column 'species' must name every category"),
        (TABLE.replace("corvus;", ";"), r"line 4: the genus '' is empty or has blanks"),
        (TABLE.replace(";corvus;", "; corvus;"), r"line 4: the genus ' corvus' is empty or has blanks"),
        (TABLE.replace(";corvidae", ""), r"line 4: 2 cells, but the header has 3, separated by semicolons"),
        (
            TABLE.replace("ater;parus;paridae", "ater;parus;corvidae"),
            r"'parus' lies in family 'paridae' and 'corvidae'",
        ),
        (TABLE.replace("family\n", "genus\n"), r"line 1: two columns have the same name"),
        (TABLE.replace("family\n", "a/b\n"), r"line 1: 'a/b' is no name of a level"),
        (TABLE.replace("parus ater", '"parus ater'), r"cannot be read: .*Mind its quotes"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "birds.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_hierarchy(tmp_path / "birds.csv", categories=SPECIES)


def test_what_is_no_table_or_lacks_a_level_is_refused(tmp_path):
    path = tmp_path / "birds.csv"
    with pytest.raises(ConfigError, match=r"birds\.csv cannot be read: No such file or directory"):
        read_hierarchy(path, categories=SPECIES)
    path.write_bytes(TABLE.replace("ater", "äter").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte \d+: .*Save it as UTF-8"):
        read_hierarchy(path, categories=SPECIES)
    path.write_text(TABLE)
    with pytest.raises(ConfigError, match=r"line 1 has no column order\. Take some of species, genus, family"):
        read_hierarchy(path, categories=SPECIES, levels=["species", "order"])
    with pytest.raises(ConfigError, match="must be different names"):
        read_hierarchy(path, categories=SPECIES, levels=["species", "species"])


# --- labels -----------------------------------------------------------------------------------------------------------


@st.composite
def hierarchies(draw):
    """Up to 6 categories in up to 3 levels."""
    count = draw(st.integers(1, 6))
    names = [f"c{number}" for number in range(count)]
    parents: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    low = dict(zip(names, names, strict=True))
    depth = draw(st.integers(1, 3))
    for level in range(1, depth):
        above = {own: f"l{level}n{draw(st.integers(0, 2))}" for own in set(low.values())}
        low = {name: above[own] for name, own in low.items()}
        parents = {name: (*parents[name], low[name]) for name in names}
    return make_hierarchy(names, [f"level{number}" for number in range(depth)], parents)


@settings(max_examples=60, deadline=None)
@given(hierarchies(), st.sampled_from([torch.bool, torch.uint8, torch.float32]), st.integers(0, 2**32 - 1))
def test_labels_of_a_level_are_gathered_from_its_members(hierarchy, dtype, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).random((4, len(hierarchy.categories))) < 0.4).to(dtype)
    found = hierarchy.level_labels(labels)
    for level in hierarchy.levels:
        assert found[level.name].dtype == dtype
        for row, truth in zip(labels.tolist(), found[level.name].tolist(), strict=True):
            for number, value in enumerate(truth):
                members = [own for own, of in zip(row, level.of_category, strict=True) if of == number]
                assert value == max(members)
    assert hierarchy.join_labels(labels).equal(torch.cat([found[level.name] for level in hierarchy.levels], dim=1))


def test_clips_of_one_genus_that_are_mixed_are_wholly_of_it():
    """Two species of a genus, one in each clip: of whatever is mixed, the genus is there."""
    hierarchy = make_hierarchy(["a", "b"], ["species", "genus"], {"a": ("x",), "b": ("x",)})
    labels = hierarchy.join_labels(torch.tensor([[True, False], [False, True]]))
    frames = torch.randint(0, 256, (2, 4, 3, 8, 8), dtype=torch.uint8)
    every = torch.ones(2, dtype=torch.bool)
    batch = Batch(
        frames=frames,
        labels=labels,
        keys=["v", "w"],
        starts=torch.arange(2),
        mask=every,
        positions=torch.arange(2),
    )
    torch.manual_seed(0)
    species, genus = hierarchy.split(Augment(mixup=1.0)(batch).labels).values()
    assert ((species > 0) & (species < 1)).all()
    assert genus.tolist() == [[1.0], [1.0]]


def test_samples_are_counted_part_by_part(monkeypatch):
    monkeypatch.setattr(hierarchy_module, "COUNTED_AT_ONCE", 3)
    labels = np.random.default_rng(0).random((11, 3)) < 0.5
    counts = BIRDS.count_samples(labels)
    assert counts["species"].tolist() == labels.sum(axis=0).tolist()
    assert counts["genus"].tolist() == [labels[:, 0].sum(), labels[:, 1:].any(axis=1).sum()]
    assert counts["family"].tolist() == counts["genus"].tolist()


def test_merged_levels_keep_their_weights():
    labels = np.eye(3)[[0, 1, 1, 2]]
    merged = BIRDS.weigh({"species": 4, "genus": 1, "family": 1}).merge_rare(labels, min_samples=2)
    assert [(level.classes, level.weight) for level in merged.levels] == [
        (("parus major", "other"), 2.0),
        (("parus", "other"), 0.5),
        (("paridae", "other"), 0.5),
    ]


def test_levels_of_other_categories_are_refused():
    with pytest.raises(ConfigError, match=r"of_category=\[0, 2, 1\] must name each of the 2 classes of 'a'"):
        Level("a", ("x", "y"), (0, 2, 1))
    with pytest.raises(ConfigError, match="of_category of 'a' has 2 numbers, there are 3 categories"):
        Hierarchy(tuple(SPECIES), (Level("a", ("x",), (0, 0)),))


# --- losses and figures -----------------------------------------------------------------------------------------------


def draw(task: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all levels of BIRDS, and labels of its species."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(8, sum(BIRDS.sizes), generator=generator)
    if task == "multi_label":
        return scores, torch.rand(8, 3, generator=generator) < 0.4
    return scores, torch.eye(3, dtype=torch.bool)[[0, 1, 2, 1, 0, 1, 1, 2]]  # backwards, some other tits meet


def by_hand(labels: torch.Tensor, soft: bool) -> list[torch.Tensor]:
    """Labels of the levels of BIRDS; soft ones are of clips mixed with those of the batch backwards."""
    tits = labels[:, 1] | labels[:, 2]
    parts = [labels, *[torch.stack([labels[:, 0], tits], dim=1)] * 2]
    return [0.7 * part.float() + 0.3 * part.flip(0).float() if soft else part for part in parts]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("task", "loss"),
    [("multi_label", loss) for loss in ("auto", "focal", "asymmetric")]
    + [("single_label", loss) for loss in ("auto", "bce", "focal")],
)
def test_the_loss_is_the_weighted_sum_over_levels(task, loss, soft):
    scores, labels = draw(task)
    truths = by_hand(labels, soft)
    hierarchy = BIRDS.weigh({"species": 3, "genus": 2, "family": 1})
    of_classes = {"species": torch.tensor([0.5, 1.0, 1.5]), "genus": torch.tensor([0.2, 1.8]), "family": None}
    criteria = {
        name: Criterion(loss=loss, task=task, label_smoothing=0.1, weights=values)
        for name, values in of_classes.items()
    }
    found = LevelsCriterion(hierarchy=hierarchy, criteria=criteria)(scores, torch.cat(truths, dim=1))
    expected = torch.zeros(8)
    for weight, name, part, truth in zip(
        (1.5, 1.0, 0.5), of_classes, (scores[:, :3], scores[:, 3:5], scores[:, 5:]), truths, strict=True
    ):
        expected += weight * criteria[name](part, truth)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_plain_loss_is_binary_cross_entropy_of_each_level(soft):
    scores, labels = draw("multi_label")
    truths = by_hand(labels, soft)
    criteria = {level.name: Criterion(loss="auto", task="multi_label") for level in BIRDS.levels}
    found = LevelsCriterion(hierarchy=BIRDS, criteria=criteria)(scores, torch.cat(truths, dim=1))
    expected = np.zeros(8)
    for part, truth in zip((slice(0, 3), slice(3, 5), slice(5, 7)), truths, strict=True):
        p, t = 1 / (1 + np.exp(-scores[:, part].double().numpy())), truth.double().numpy()
        expected += -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_figures_of_a_level_are_those_of_its_columns(task):
    rng = np.random.default_rng(0)
    probabilities = rng.random((20, 7)).astype(np.float32)
    species = np.eye(3, dtype=bool)[rng.integers(0, 3, 20)] if task == "single_label" else rng.random((20, 3)) < 0.4
    parts = [truth.numpy() for truth in by_hand(torch.from_numpy(species), soft=False)]
    predictions = Predictions(
        keys=["a"] * 20,
        starts=np.arange(20),
        probabilities=probabilities,
        targets=np.concatenate(parts, axis=1),
        loss=9.0,
        level_losses=(1.0, 2.0, 3.0),
    )
    found = figures_of(predictions, task=task, hierarchy=BIRDS)
    columns = (probabilities[:, :3], probabilities[:, 3:5], probabilities[:, 5:])
    expected = compute_metrics(columns[0], parts[0], task=task) | {"loss": 9.0}
    for level, part, truth, loss in zip(BIRDS.levels, columns, parts, (1.0, 2.0, 3.0), strict=True):
        figures = compute_metrics(part, truth, task=task) | {"loss": loss}
        expected |= {f"{level.name}/{name}": value for name, value in figures.items()}
    assert found == pytest.approx(expected)


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_the_history_has_the_figures_of_every_level(run):
    flat = {"loss", "mAP", "mAP_micro", "mAP_chance", "f1_macro", "f1_micro"}
    for line in history(run):
        val = line["val"]
        assert set(val) == flat | {f"{level}/{name}" for level in ("what", "sight") for name in flat}
        assert val["mAP"] == val["what/mAP"]
        assert val["loss"] == pytest.approx(1.5 * val["what/loss"] + 0.5 * val["sight/loss"], rel=1e-6)
        assert not math.isclose(val["what/loss"], val["sight/loss"])


def test_what_is_validated_is_the_plain_loss_and_the_labels_of_each_level(run, shards):
    model, manifest = load_checkpoint(run / "last")
    dataset = DatasetBuilder(path=shards / "val", style=manifest.sliding_style).build()
    batches = list(dataset.loader(batch_size=10, size=32))
    with torch.inference_mode():
        scores = torch.cat([model.eval()(batch.frames) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    seen = torch.stack([labels[:, 0] | labels[:, 1], labels[:, 2]], dim=1)
    last = history(run)[-1]["val"]
    for name, part, truth in (("what", scores[:, :3], labels), ("sight", scores[:, 3:], seen)):
        assert last[f"{name}/loss"] == pytest.approx(
            clip_losses(part, truth, task="multi_label").mean().item(), rel=1e-4
        )
        assert last[f"{name}/mAP"] == pytest.approx(
            compute_metrics(part.sigmoid().numpy(), truth.numpy(), task="multi_label")["mAP"], rel=1e-4
        )


def test_a_checkpoint_knows_its_hierarchy_without_the_table_and_elsewhere(run, tmp_path, monkeypatch):
    model, manifest = load_checkpoint(run / "last")
    assert not manifest.config.model.hierarchy.file.exists()
    sight = {"bright": ("seen",), "red": ("seen",), "never": ("unseen",)}
    expected = make_hierarchy(CATEGORIES, ("what", "sight"), sight)
    assert manifest.hierarchy == expected.weigh({"what": 1.5, "sight": 0.5})
    moved = shutil.copytree(run / "last", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    again, said = load_checkpoint(Path("moved"))
    assert said == load_checkpoint(moved)[1] == manifest
    frames = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again.eval()(frames), model.eval()(frames))
        assert model(frames).shape == (2, 5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"of_category":[0,0,1]', '"of_category":[0,0,7]'),
        ('"categories":["bright","red"', '"categories":["bright","blue"'),
    ],
)
def test_a_damaged_hierarchy_is_told(run, tmp_path, old, new):
    shutil.copytree(run / "last", tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.json"
    content = json.loads(path.read_text())
    text = json.dumps(content["hierarchy"], separators=(",", ":"))
    assert old in text
    path.write_text(json.dumps(content | {"hierarchy": json.loads(text.replace(old, new))}))
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        load_checkpoint(tmp_path / "copy")


def test_a_run_that_was_left_goes_on_without_the_table(shards, table, tmp_path, monkeypatch):
    options = (f"model.hierarchy.file={table}", "model.hierarchy.min_samples=1", "trainer.class_weights=inverse")
    options = (*options, "model.backbone=test_convnext", "trainer.epochs=2", "trainer.batch_size=4")
    calm = train(tiny_config(shards, tmp_path / "calm", *options))
    config = tiny_config(shards, tmp_path / "told", *options, "trainer.resume=auto")
    AcceleratorState._reset_state(reset_partial_state=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(config)
    table.unlink()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert_same_run(calm, train(config))


def test_rare_classes_are_merged_by_the_training_set_and_named(shards, table, tmp_path, capsys):
    options = (f"model.hierarchy.file={table}", "model.hierarchy.min_samples=1")
    run = train(tiny_config(shards, tmp_path / "run", *options))
    _, manifest = load_checkpoint(run / "best")
    assert [level.classes for level in manifest.hierarchy.levels] == [("bright", "red", "other"), ("seen", "other")]
    told = capsys.readouterr().out.splitlines()
    assert "what: 1 of 3 are other: never" in told
    assert "sight: 1 of 2 are other: unseen" in told
    evaluation = evaluate(run, split="val", progress=False)
    assert list(evaluation.classes) == ["bright", "red", "other"]
    assert json.loads(evaluation.report.read_text())["categories"] == CATEGORIES
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(
        ConfigError, match=r"model\.hierarchy\.min_samples=999 leaves no what: the most frequent has \d+"
    ):
        train(tiny_config(shards, tmp_path / "none", *options[:1], "model.hierarchy.min_samples=999"))
    assert not (tmp_path / "none").exists()


def test_a_level_of_weight_zero_learns_nothing(shards, table, tmp_path):
    options = (f"model.hierarchy.file={table}", "trainer.weight_decay=0", "trainer.lr=0.05")
    config = tiny_config(shards, tmp_path / "run", *options, "model.hierarchy.loss_weights={what: 0, sight: 2}")
    run = train(config)
    learned = weights(run)
    _, manifest = load_checkpoint(run / "last")
    set_seed(0)
    fresh = build_model(config.model, num_classes=3, hierarchy=manifest.hierarchy).state_dict()
    assert torch.equal(learned["classifier.levels.0.weight"], fresh["classifier.levels.0.weight"])
    assert not torch.equal(learned["classifier.levels.1.weight"], fresh["classifier.levels.1.weight"])
    figures = history(run)[-1]["val"]
    assert figures["loss"] == pytest.approx(2 * figures["sight/loss"], rel=1e-6)


def test_class_weights_are_of_each_level(shards, table, tmp_path, monkeypatch):
    from wildstream.training import run as run_module

    seen = []
    weigh = run_module.class_weights
    monkeypatch.setattr(run_module, "class_weights", lambda counts, kind: (seen.append(counts), weigh(counts, kind))[1])
    options = (f"model.hierarchy.file={table}", "trainer.class_weights=inverse")
    train(tiny_config(shards, tmp_path / "run", *options))
    style = load_checkpoint(tmp_path / "run" / "last")[1].sliding_style
    truth = DatasetBuilder(path=shards / "train", style=style).build().labels()
    assert [counts.tolist() for counts in seen] == [
        truth.sum(axis=0).tolist(),
        [truth[:, :2].any(axis=1).sum(), truth[:, 2].sum()],
    ]


def test_the_loss_of_a_level_can_be_monitored(shards, table, tmp_path):
    options = (f"model.hierarchy.file={table}", "trainer.monitor=sight/loss", "trainer.epochs=3", "trainer.lr=0.05")
    run = train(tiny_config(shards, tmp_path / "run", *options))
    losses = [line["val"]["sight/loss"] for line in history(run)]
    assert load_checkpoint(run / "best")[1].epoch == int(np.argmin(losses)) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.monitor=genus/mAP"], r"does not go with multi_label of 3 classes\. Take one of .*sight/mAP"),
        (["trainer.monitor=sight/top1"], r"trainer\.monitor=sight/top1 does not go with multi_label"),
        (
            ["model.hierarchy.loss_weights.what=1"],
            r"model\.hierarchy: loss_weights=.* must name the levels what, sight",
        ),
        (
            ["model.hierarchy.levels=[what, order]"],
            r"model\.hierarchy: levels=\['what', 'order'\]: .*has no column order",
        ),
    ],
)
def test_options_that_do_not_fit_the_table_are_refused_before_anything_is_written(
    shards, table, tmp_path, options, message
):
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(shards, tmp_path / "run", f"model.hierarchy.file={table}", *options))
    assert not (tmp_path / "run").exists()


def test_figures_of_levels_need_a_hierarchy(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"monitor=genus/mAP does not go with .* without model\.hierarchy"):
        train(tiny_config(shards, tmp_path / "run", "trainer.monitor=genus/mAP"))
    with pytest.raises(ConfigError, match=r"trainer\.monitor='genus/accuracy' is not known"):
        tiny_config(shards, tmp_path / "run", "trainer.monitor=genus/accuracy")


def test_the_options_are_strict_and_the_path_is_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    base = ["data.path=x", "model=tiny3d"]
    assert compose_config([*base, "model.hierarchy.file=a b,c.csv"]).model.hierarchy.file == tmp_path / "a b,c.csv"
    config = compose_config([*base, "model.hierarchy.file=~/t.csv", "model.hierarchy.loss_weights.genus=2"])
    assert config.model.hierarchy.file == tmp_path / "home" / "t.csv"
    assert config.model.hierarchy.loss_weights == {"genus": 2.0}
    for override, message in (
        ("model.hierarchy.min_samples=3", r"model\.hierarchy\.file is missing"),
        ("model.hierarchy={file: x, min_samples: -1}", r"model\.hierarchy\.min_samples=-1 must be greater"),
        ("model.hierarchy={file: x, loss_weights: {a: -1}}", r"loss_weights\.a=-1 must be greater"),
        (
            "model.hierarchy=t.csv",
            r"model\.hierarchy='t\.csv' is a group of options\. Write model\.hierarchy\.file=t\.csv",
        ),
        ("model.hierarchy.files=x", r"Did you mean model\.hierarchy\.file\?"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose_config([*base, override])


def test_one_class_of_each_level_where_there_is_one_class(tmp_path_factory, tmp_path):
    (tmp_path / "light.csv").write_text("light\tday\ndark\tnight\nbright\tday\n")
    shards = clips_shards(tmp_path_factory)
    run = train(tiny_config(shards, tmp_path / "run", f"model.hierarchy.file={tmp_path}/light.csv"))
    evaluation = evaluate(run, progress=False)
    predictions = read_predictions(evaluation.predictions)
    probabilities, targets = predictions.probabilities, predictions.targets
    np.testing.assert_allclose(probabilities[:, :2].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities[:, 2:].sum(axis=1), 1, rtol=1e-5)
    assert (targets[:, :2] == targets[:, 2:]).all()  # as many classes, in the same order
    assert evaluation.metrics["day/top1"] == pytest.approx(
        (probabilities[:, 2:].argmax(axis=1) == targets[:, 2:].argmax(axis=1)).mean()
    )


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_the_report_holds_what_every_level_says(run):
    evaluation = evaluate(run, progress=False)
    report = json.loads(evaluation.report.read_text())
    predictions = read_predictions(evaluation.predictions)
    probabilities, targets = predictions.probabilities, predictions.targets
    assert probabilities.shape == targets.shape == (report["windows"], 5)
    assert predictions.loss == pytest.approx(report["metrics"]["loss"])
    assert predictions.level_losses == pytest.approx([report["metrics"][f"{name}/loss"] for name in ("what", "sight")])
    assert report["groups"]["sight/seen"]["classes"] == ["bright", "red"]
    assert report["groups"]["sight/seen"]["mAP"] == pytest.approx(report["metrics"]["what/mAP"])  # never never occurs
    assert report["tolerance"][0]["metrics"]["mAP"] == report["metrics"]["what/mAP"]
    assert {of["loss"] for of in report["videos"].values()} != {None}
    assert (targets[:, 3] == targets[:, :2].any(axis=1)).all()
    assert [(name, level["weight"], level["of_category"]) for name, level in report["levels"].items()] == [
        ("what", 1.5, [0, 1, 2]),
        ("sight", 0.5, [0, 0, 1]),
    ]
    assert report["classes"] == report["levels"]["what"]["classes"] == evaluation.classes
    first = 0
    for name, level in report["levels"].items():
        precisions = []
        for number, (label, figures) in enumerate(level["classes"].items(), start=first):
            truth, found = targets[:, number], probabilities[:, number] > 0.5
            assert figures["windows"] == truth.sum(), label
            expected = precision_recall_fscore_support(truth, found, labels=[1], zero_division=np.nan)[:3]
            for figure, value in zip(("precision", "recall", "f1"), expected, strict=True):
                assert figures[figure] == (None if np.isnan(value[0]) else pytest.approx(value[0]))
            if truth.any():
                precisions.append(average_precision_score(truth, probabilities[:, number]))
        first += len(level["classes"])
        assert report["metrics"][f"{name}/mAP"] == pytest.approx(np.mean(precisions), rel=1e-5)
    assert report["metrics"]["mAP"] == report["metrics"]["what/mAP"]
    assert evaluation.levels["sight"] == report["levels"]["sight"]["classes"]


def test_the_table_has_a_part_for_each_level(run):
    rows = render(evaluate(run, progress=False)).splitlines()
    heads = [number for number, row in enumerate(rows) if "windows" in row.split()]
    assert [rows[number].split()[0] for number in heads] == ["what", "sight", "means"]  # and means of groups
    assert [row.split()[0] for row in rows[heads[1] + 2 : heads[1] + 4]] == ["seen", "unseen"]
    assert sum(row.startswith("loss ") for row in rows) == 3
    assert sum(row.startswith("loss of all levels ") for row in rows) == 1


@pytest.mark.slow
def test_two_ranks_train_what_one_does(shards, tmp_path):
    (tmp_path / "sight.csv").write_text(SIGHT)
    options = (f"model.hierarchy.file={tmp_path}/sight.csv", "model.backbone=test_convnext")
    one = train(tiny_config(shards, tmp_path / "one", *options, "trainer.batch_size=8"))
    overrides = tiny_overrides(shards, tmp_path / "two", *options, "trainer.batch_size=4")
    done = torchrun(free_port(), *overrides, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    first, second = history(one)[0], history(tmp_path / "two")[0]
    assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-4)
    assert first["val"] == pytest.approx(second["val"], rel=1e-3)


@pytest.mark.slow
def test_two_ranks_evaluate_what_one_does(run, tmp_path):
    expected = json.loads(evaluate(run, progress=False).report.read_text())
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation"))
    launch = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}")
    done = run_python(*launch, "-m", "wildstream.cli", "evaluate", copy, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    found = json.loads((copy / "evaluation" / "test.json").read_text())
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)
    first, second = (read_predictions(folder / "evaluation" / "test.parquet") for folder in (run, copy))
    assert first.keys == second.keys
    assert first.starts.tolist() == second.starts.tolist()
    assert first.targets.tolist() == second.targets.tolist()


def test_a_head_on_features_has_levels_too(tmp_path):
    info = FeatureInfo(
        backbone="x", weights="", style={}, size=(1, 1), resize="", tokens="all", dtype="fp32", members=2, num_tokens=1,
        dim=8, source="",
    )  # fmt: skip
    config = compose_config(["data.path=x", "model=tiny3d", "model.classifier=linear"]).model
    model = build_model(config, num_classes=3, features=info, hierarchy=BIRDS)
    assert model(torch.randn(5, 2, 8)).shape == (5, 7)
