"""The page of an evaluation: its numbers are the JSON's, nothing of it is foreign, and it is drawn whatever comes."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from browser import look_at
from PIL import Image
from tiny import CATEGORIES, clips_shards, frames_shards, run_python, tiny_config, write_video

from wildstream.cli import main
from wildstream.evaluation import report as report_module
from wildstream.evaluation.confusion import confuse
from wildstream.evaluation.describe import Analyses, describe
from wildstream.evaluation.mistakes import surest_mistakes
from wildstream.evaluation.report import make_report, write_report
from wildstream.evaluation.report_pictures import window_spans
from wildstream.shards.index import open_index
from wildstream.shards.labels import LabelTrack
from wildstream.shards.pack import pack
from wildstream.stream.dataset import WindowDataset
from wildstream.training.checkpoints import Manifest
from wildstream.training.predict import Predictions
from wildstream.training.run import train

EVIL = "<script>alert(1)</script>"
HISTORY = [
    {"epoch": n, "train": {"loss": 1 / n, "lr": 0.1, "windows_per_second": 9.0, "waiting_for_data": 0.1}, "val": val}
    for n, val in enumerate(({"loss": 0.5, "mAP": 0.4, "mAP_chance": 0.2}, {"loss": None, "mAP": None}), 1)
]


def make_predictions(dataset: WindowDataset, *, right: float = 0.7, seed: int = 0) -> Predictions:
    """Probabilities that tell the truth for some share of the decisions."""
    rng = np.random.default_rng(seed)
    targets = dataset.labels()
    values = rng.random(targets.shape) * 0.5 + np.where((rng.random(targets.shape) < right) == targets, 0.5, 0.0)
    if dataset.index.info.task == "single_label":
        values /= values.sum(axis=1, keepdims=True)
    videos, starts = dataset.addresses()
    losses = rng.random((len(targets), 1)).astype(np.float32)
    return Predictions(
        keys=[dataset.index.keys[video] for video in videos],
        starts=starts,
        probabilities=values.astype(np.float32),
        targets=targets,
        loss=float(losses.mean()),
        window_losses=losses,
    )


def make_manifest(dataset: WindowDataset, shards: Path) -> Manifest:
    return Manifest(
        config=tiny_config(shards, Path("run")),
        categories=dataset.categories,
        task=dataset.index.info.task,
        style=dataset.style.as_dict(),
        size=(32, 32),
        fingerprint=dataset.index.fingerprint,
        epoch=2,
        metrics={},
        commit=None,
        versions={"wildstream": "0"},
    )


def make_content(predictions: Predictions, manifest: Manifest) -> dict:
    content = describe(predictions, manifest, Analyses(bootstrap=20))
    said = {"split": "test", "checkpoint": "best", "epoch": 2, "data": "https://user:secret@host/x?sig=hidden"}
    return json.loads(json.dumps(content | said, allow_nan=False))


@pytest.fixture(scope="module", params=["frames", "clips"])
def case(request, tmp_path_factory: pytest.TempPathFactory):
    """A dataset with predictions, and all that a page takes: of many labels, and of one."""
    shards = (frames_shards if request.param == "frames" else clips_shards)(tmp_path_factory)
    return make_case(shards)


@pytest.fixture(scope="module")
def frames_case(tmp_path_factory: pytest.TempPathFactory):
    return make_case(frames_shards(tmp_path_factory))


def make_case(shards: Path):
    style = tiny_config(shards, Path("run")).data.sliding_style
    dataset = WindowDataset(index=open_index(shards / "test"), style=style)
    manifest, predictions = make_manifest(dataset, shards), make_predictions(dataset)
    return dataset, manifest, predictions, make_content(predictions, manifest)


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of the first table of a section."""
    section = page.split(f"<h2>{title}</h2>")[1].split("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section.split("<tbody>")[1].split("</tbody>")[0])
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_numbers_of_the_page_are_those_of_the_json(case):
    dataset, manifest, predictions, content = case
    page = make_report(content, predictions, manifest=manifest, dataset=dataset)[0].render()
    rows = cells(page, "Classes")
    assert [row[0] for row in rows] == dataset.categories
    for row in rows:
        figures = content["classes"][row[0]]
        assert row[1] == f"{figures['windows']:,}"
        for cell, name in zip(row[2:], ("chance", "average_precision", "precision", "recall", "f1"), strict=True):
            assert cell.split(" ")[0] == ("–" if figures[name] is None else f"{figures[name]:.3f}")
    tiles = dict(re.findall(r'<div class="tile"><span>(.*?)</span><b>(.*?)</b>', page))
    assert tiles["mAP"] == f"{content['metrics']['mAP']:.3f}"
    assert tiles["loss"] == f"{content['metrics']['loss']:.3f}"
    if manifest.task == "single_label":
        assert tiles["top-1"] == f"{content['metrics']['top1']:.3f}"
    for video, *figures in cells(page, "Videos"):
        known = content["videos"][video]
        assert figures == [
            "–" if it is None else f"{it:,}" if isinstance(it, int) else f"{it:.3f}" for it in known.values()
        ]
    for row, one in zip(cells(page, "Tolerance"), content["tolerance"], strict=True):
        assert row[:2] == [str(one["windows"]), f"{one['metrics']['mAP']:.3f}"]
    low, high = content["bootstrap"]["metrics"]["mAP"]
    assert f"95%: {low:.3f}–{high:.3f}" in page


def test_the_page_says_what_the_run_was_and_no_secret(frames_case):
    dataset, manifest, predictions, content = frames_case
    page = make_report(content, predictions, manifest=manifest, dataset=dataset, history=HISTORY)[0].render()
    assert "backbone: test_byobnet" in page
    assert "https://***@host/x?***" in page
    assert "secret" not in page
    assert "hidden" not in page.replace("overflow:hidden", "")


def test_the_same_input_gives_the_same_bytes(case, tmp_path):
    dataset, manifest, predictions, content = case
    written = []
    for name in ("one", "two"):
        path = tmp_path / name / "test.v2.html"
        write_report(path, content, predictions, manifest=manifest, dataset=dataset, history=HISTORY)
        files = {it.relative_to(path.parent): it.read_bytes() for it in path.parent.rglob("*") if it.is_file()}
        written.append(files)
    assert written[0] == written[1]
    names = {path.name for path in written[0]}
    assert names >= {"test.v2.html", "classes.png", "confusion.png", "precision_recall.png", "training.png"}
    assert len(written[0][Path("test.v2.html")]) < 10_000_000
    for path, data in written[0].items():
        if path.suffix == ".png":
            image = Image.open(BytesIO(data))
            assert set(image.info) <= {"dpi"}, "no time and no program"
            assert image.width > 300


def test_the_loss_of_a_hierarchy_has_no_interval_of_its_first_level(frames_case):
    *_, content = frames_case
    for levels, told in (({}, True), ({"levels": {"species": {}}}, False)):
        tiles = {tile.name: tile.note for tile in report_module._tiles(content | levels, "multi_label")}
        assert tiles["loss"].startswith("95%: ") is told
        assert tiles["mAP"].startswith("95%: ")


def test_an_earlier_pages_timelines_go(frames_case, tmp_path):
    dataset, manifest, predictions, content = frames_case
    old = tmp_path / "test" / "timeline_09.png"
    old.parent.mkdir()
    old.write_bytes(b"old")
    write_report(tmp_path / "test.html", content, predictions, manifest=manifest, dataset=dataset)
    assert sorted(path.name for path in old.parent.glob("timeline_*")) == ["timeline_01.png", "timeline_02.png"]


# --- what comes from data ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evil_case(tmp_path_factory: pytest.TempPathFactory):
    """Names that would break a page that is put together without care."""
    root = tmp_path_factory.mktemp("evil")
    (root / "source").mkdir()
    (root / "source" / "categories.json").write_text(json.dumps([EVIL, '$x_1^2$ & "q"', "a' onerror='alert(2)"]))
    labels = np.tile(np.array([[1, 0, 0], [0, 1, 1]], np.bool_), (10, 1))
    for number, name in enumerate(("it's", 'q"uote', "a&b")):
        path = root / "source" / "test" / name / f"{name}.mp4"
        write_video(path, labels, number)
        np.savetxt(path.with_suffix(".tsv"), labels, fmt="%d", delimiter="\t")
    pack(root / "source", root / "shards", format="frames", progress=False)
    return make_case(root / "shards")


KNOWN_ATTRIBUTES = {"alt", "charset", "class", "content", "height", "href", "id", "lang", "loading", "name", "src"}
KNOWN_ATTRIBUTES |= {"aria-label", "http-equiv", "open", "rel", "scope", "style", "title", "width"}


class Attributes(HTMLParser):
    """The names of all attributes of a page, as a browser reads it."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        self.found |= {name for name, _ in attrs}


def test_the_test_notices_an_attribute_that_data_made():
    parser = Attributes()
    parser.feed("<img alt='q' onerror='alert(2)'>")
    assert not parser.found <= KNOWN_ATTRIBUTES


def test_what_comes_from_data_is_text(evil_case):
    dataset, manifest, predictions, content = evil_case
    page, _ = make_report(content, predictions, manifest=manifest, dataset=dataset, history=HISTORY)
    html = page.render()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    parser = Attributes()
    parser.feed(html)
    assert parser.found <= KNOWN_ATTRIBUTES
    assert "alt" in parser.found
    for key in dataset.index.keys:
        assert key in unescape(html)


def test_nothing_is_asked_of_the_network(evil_case):
    dataset, manifest, predictions, content = evil_case
    html = make_report(content, predictions, manifest=manifest, dataset=dataset, history=HISTORY)[0].render()
    for attribute, target in re.findall(r"<[^>]*?\s(src|href|action|data|poster|srcset)=\"?([^\"\s>]*)", html):
        assert target.startswith(("data:image/", "data:,", "#s")), (attribute, target)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (400, True)])
def test_chromium_opens_it_without_a_complaint(evil_case, tmp_path, width, dark):
    dataset, manifest, predictions, content = evil_case
    path = tmp_path / "it's a <page>.html"
    write_report(path, content, predictions, manifest=manifest, dataset=dataset, history=HISTORY)
    seen = look_at(path, width=width, dark=dark)
    assert seen.complaints == []
    assert seen.requests == []
    assert len(seen.images) > 8
    assert all(complete and pixels > 0 for complete, pixels in seen.images)
    assert seen.overflow == 0, "it would have to be scrolled sideways"
    assert EVIL in seen.text
    shot = np.asarray(Image.open(BytesIO(seen.screenshot)).convert("L"))
    assert (shot[3, 3] < 60) if dark else (shot[3, 3] > 200), "the page follows the theme"
    assert shot.std() > 20, "and something is drawn on it"


# --- whatever comes ---------------------------------------------------------------------------------------------------


def test_without_a_mistake_it_says_so(case):
    dataset, manifest, predictions, _ = case
    perfect = replace(predictions, probabilities=predictions.targets.astype(np.float32))
    content = make_content(perfect, manifest)
    page, _ = make_report(content, perfect, manifest=manifest, dataset=dataset)
    assert "None: every window is right." in page.render()
    assert surest_mistakes(perfect, task=manifest.task, most=5) == []


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_model_that_says_nothing_or_everything_is_drawn(frames_case, value):
    dataset, manifest, predictions, _ = frames_case
    constant = replace(predictions, probabilities=np.full_like(predictions.probabilities, value))
    page, pictures = make_report(make_content(constant, manifest), constant, manifest=manifest, dataset=dataset)
    assert "–" in page.render()
    assert len({picture.name for picture in pictures}) == len(pictures)


def make_wide(frames_case, num_classes: int, *, only: int | None = None):
    """The windows of the tiny set with other classes; with `only`, that class alone happens."""
    dataset, manifest, predictions, _ = frames_case
    rng = np.random.default_rng(0)
    targets = rng.random((len(predictions.keys), num_classes)) < 0.1
    if only is not None:
        targets[:] = False
        targets[:, only] = True
    values = rng.random(targets.shape).astype(np.float32)
    wide = replace(predictions, probabilities=values, targets=targets)
    names = [f"class {number} " + "with a long name " * (number % 3) for number in range(num_classes)]
    info = dataset.index.info.model_copy(update={"categories": names})
    index = open_index(dataset.index.folder)
    index.info = info
    index.track = lambda video: LabelTrack.from_rows(np.zeros((int(index.num_frames[video]), num_classes), np.bool_))
    other = manifest.model_copy(update={"categories": names})
    return WindowDataset(index=index, style=dataset.style), other, wide, make_content(wide, other)


@pytest.mark.parametrize("num_classes", [1, 2, 300])
def test_it_is_drawn_with_one_class_and_with_hundreds(frames_case, num_classes):
    dataset, manifest, predictions, content = make_wide(frames_case, num_classes)
    page, pictures = make_report(content, predictions, manifest=manifest, dataset=dataset)
    html = page.render()
    assert len(html) < 10_000_000
    assert len(cells(html, "Classes")) == num_classes
    for picture in pictures:
        width, height = Image.open(BytesIO(picture.png)).size
        assert max(width, height) < 4000, picture.name
    if num_classes > 30:
        assert "more classes, with fewer mistakes, are together in (others)" in html


def test_it_is_drawn_with_one_class_that_always_happens(frames_case):
    dataset, manifest, predictions, content = make_wide(frames_case, 3, only=1)
    assert content["classes"][manifest.categories[0]]["average_precision"] is None
    make_report(content, predictions, manifest=manifest, dataset=dataset)


def test_it_is_drawn_of_one_window_and_without_what_is_optional(frames_case):
    dataset, manifest, predictions, _ = frames_case
    one = predictions.only(np.arange(len(predictions.keys)) == 3)
    content = make_content(one, manifest)
    for name in ("tolerance", "groups", "videos", "calibration", "bootstrap"):
        del content[name]
    page, pictures = make_report(content, one, manifest=manifest, dataset=dataset)
    titles = [section.title for section in page.sections]
    assert titles == [
        "Classes",
        "Confusion",
        "Precision and recall",
        "Over time",
        "Most confident mistakes",
        "Configuration",
    ]
    assert {picture.name for picture in pictures} >= {"classes", "timeline_01"}


def test_a_part_of_the_json_that_is_not_known_becomes_a_table(frames_case):
    dataset, manifest, predictions, content = frames_case
    more = content | {
        "new_thing": {"a": {"x": 0.5, "y": None}, "b": {"x": 1, "y": True}},
        "deep": {"a": {"b": {"c": 1}}},
    }
    html = make_report(more, predictions, manifest=manifest, dataset=dataset)[0].render()
    assert cells(html, "New thing") == [["a", "0.500", "–"], ["b", "1", "yes"]]
    assert "<h2>Deep</h2>" in html


# --- what is counted --------------------------------------------------------------------------------------------------


def test_the_confusion_of_single_labels_is_a_count(case):
    _, manifest, predictions, _ = case
    names = manifest.categories
    if manifest.task == "multi_label":
        pytest.skip("the other task has a test of its own")
    confusion = confuse(predictions.probabilities, predictions.targets, names, task="single_label", most=30)
    truth, said = predictions.targets.argmax(axis=1), predictions.probabilities.argmax(axis=1)
    expected = [[int(((truth == row) & (said == column)).sum()) for column in range(2)] for row in range(2)]
    assert confusion.counts.tolist() == expected
    np.testing.assert_allclose(confusion.shares.sum(axis=1), 1)


def test_the_surest_mistakes_come_first_and_each_kind_once(frames_case):
    _, _, predictions, _ = frames_case
    mistakes = surest_mistakes(predictions, task="multi_label", most=100)
    found = predictions.probabilities > 0.5
    assert [mistake.confidence for mistake in mistakes] == sorted((m.confidence for m in mistakes), reverse=True)
    kinds = set()
    for mistake in mistakes:
        there = bool(predictions.targets[mistake.window, mistake.label])
        assert found[mistake.window, mistake.label] != there
        assert mistake.is_miss == there
        kinds.add((predictions.keys[mistake.window], mistake.label, mistake.is_miss))
    wrong = np.argwhere(found != predictions.targets)
    expected = {(predictions.keys[row], int(label), bool(predictions.targets[row, label])) for row, label in wrong}
    assert kinds == expected
    assert len(mistakes) == len(kinds)
    assert len(surest_mistakes(predictions, task="multi_label", most=2)) == 2


def test_spans_are_seconds_from_middle_to_middle(frames_case):
    dataset, _, predictions, _ = frames_case
    rows = [n for n, key in enumerate(predictions.keys) if key == dataset.index.keys[0]]
    spans, length, unit = window_spans(dataset, 0, predictions.starts[rows])
    assert unit == "time (seconds)"
    assert length == pytest.approx(20 / 25)
    assert spans[0, 0] == 0
    np.testing.assert_allclose(spans[1:, 0], spans[:-1, 1])
    assert spans[3, 0] == pytest.approx(6 / 25), "every second frame of 25 a second"
    assert spans[-1, 1] == pytest.approx(length)


# --- by the door ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_writes_it_unless_told_not_to(tmp_path, tmp_path_factory, capsys):
    run = train(tiny_config(frames_shards(tmp_path_factory), tmp_path / "run"))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["evaluate", str(run), "--no-report", "--bootstrap", "0"]) == 0
    assert not list((run / "evaluation").glob("*.html"))
    assert "page:" not in capsys.readouterr().out
    assert main(["evaluate", str(run), "--set", "partial"]) == 0
    page = run / "evaluation" / "test-partial.html"
    assert f"page: {page}" in capsys.readouterr().out
    html = page.read_text()
    content = json.loads(page.with_suffix(".json").read_text())
    assert f"{content['windows']:,} with a label of 2 videos" in html
    assert "<h2>Training</h2>" in html
    assert (run / "evaluation" / "test-partial" / "training.png").exists()
    assert [row[0] for row in cells(html, "Classes")] == CATEGORIES
    AcceleratorState._reset_state(reset_partial_state=True)


def test_evaluating_alone_loads_nothing_that_draws():
    done = run_python("-c", "import sys, wildstream.evaluation.evaluate; print('wildstream.pictures' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
