"""Exported models: what they give, what they say of themselves, and that their bytes are data."""

import io
import json
import pickle
import re
import shutil
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, STYLE, run_python

import wildstream as ws
from wildstream.cli import main
from wildstream.config.compose import compose_config
from wildstream.errors import ConfigError, EnvironmentProblem, ExportError, ShardError
from wildstream.export import archive, document, loading, writing
from wildstream.export.document import ExportDocument, describe_export
from wildstream.models.hierarchy import make_hierarchy
from wildstream.shards.feature_info import FeatureInfo
from wildstream.stream.windows import SlidingStyle, get_style
from wildstream.training.checkpoints import Manifest, build_model, load_checkpoint, save_checkpoint, used_versions
from wildstream.training.losses import probabilities

CATEGORIES = ["parus major", "parus ater", "corvus corax"]
HIERARCHY = make_hierarchy(
    CATEGORIES, ("species", "genus"), {"parus major": ["parus"], "parus ater": ["parus"], "corvus corax": ["corvus"]}
)
SECRET = "/home/somebody/secret-place"
FEATURES = {"members": 4, "num_tokens": 2, "dim": 8}


def write_checkpoint(folder: Path, *overrides: str, size=(32, 32), features=None, **facts) -> Path:
    """A checkpoint of random weights, with batch norms that normalise by something."""
    torch.manual_seed(0)
    config = compose_config(
        [f"data.path={SECRET}", STYLE, "model.backbone=tiny3d", "model.classifier=linear", *overrides]
    )
    style = config.data.style
    style = SlidingStyle(**style) if isinstance(style, dict) else get_style(style)
    model = build_model(config.model, num_classes=3, features=features, hierarchy=facts.get("hierarchy"))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape) + 0.1)
    manifest = Manifest(
        **{
            "config": config,
            "categories": CATEGORIES,
            "task": "multi_label",
            "style": style.as_dict(),
            "size": size,
            "features": features,
            "fingerprint": "abc",
            "epoch": 3,
            "metrics": {"mAP": 0.5, "loss": None},
            "commit": "123",
            "versions": used_versions(),
        }
        | facts
    )
    save_checkpoint(folder, model, manifest)
    return folder


def truth(checkpoint: Path, inputs: torch.Tensor) -> torch.Tensor:
    """What the checkpoint's model says, level by level."""
    model, manifest = load_checkpoint(checkpoint)
    model.eval()
    with torch.inference_mode():
        scores = model(inputs)
    parts = manifest.hierarchy.split(scores).values() if manifest.hierarchy else [scores]
    return torch.cat([probabilities(part, task=manifest.task) for part in parts], dim=1)


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model takes clips."""
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / "best", "data.resize=torchvision", thresholds=dict.fromkeys(CATEGORIES, 0.25))
    write_checkpoint(folder / "last", epoch=9)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """It in both formats."""
    out = tmp_path_factory.mktemp("exported")
    return {kind: ws.export_model(run, out / f"model.{kind}").path for kind in ("onnx", "pt2")}


both = pytest.mark.parametrize("kind", ["onnx", "pt2"])


# --- what it gives ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_any_number_of_clips_gets_the_probabilities_of_the_model(kind, batch, exported, run):
    model, clips = ws.load_exported(exported[kind]), frames(batch, 4, 3, 32, 32)
    found = model(clips)
    assert found.dtype == torch.float32
    assert found.shape == (batch, 3)
    torch.testing.assert_close(found, truth(run / "best", clips), atol=1e-5, rtol=0)
    assert torch.equal(model(clips.numpy()), found)


@both
def test_frames_with_patches_and_levels(kind, tmp_path):
    """An image network, whose chunks are smaller than the batch; each level has probabilities that sum to 1."""
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint",
        "model.backbone=test_vit",
        "model.pooling=attention",
        "model.aggregator=attention",
        "model.chunk=3",
        "data.style={window_size: 2, samples_per_window: 2, tolerance_region: 0, patch_h: 1, patch_w: 2}",
        task="single_label",
        hierarchy=HIERARCHY,
    )
    report = ws.export_model(checkpoint, tmp_path / f"model.{kind}")
    assert report.document.input.shape == ["batch", 2, 2, 3, 32, 32]
    assert report.document.input.axes == ["batch", "time", "patch", "channel", "height", "width"]
    assert report.document.output.shape == ["batch", 5]
    assert report.difference <= 1e-5
    model, clips = ws.load_exported(report.path), frames(4, 2, 2, 3, 32, 32)
    expected = truth(checkpoint, clips)
    torch.testing.assert_close(model.all_levels(clips), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(clips), expected[:, :3], atol=1e-5, rtol=0)
    by_level = model.by_level(clips)
    assert list(by_level) == ["species", "genus"]
    for found in by_level.values():
        torch.testing.assert_close(found.sum(dim=1), torch.ones(4))
    assert (model.classes, model.num_outputs, model.levels) == (CATEGORIES, 5, HIERARCHY.levels)
    assert model.document.output.activation == "softmax"


@both
def test_any_number_of_tiles_of_a_fixed_size(kind, tmp_path):
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint",
        "model.aggregator=lse",
        "data.style={window_size: 2, samples_per_window: 2, tolerance_region: 0, patch_type: absolute, patch_h: 16, "
        "patch_w: 16}",
        size=(16, 16),
    )
    model = ws.load_exported(ws.export_model(checkpoint, tmp_path / f"model.{kind}").path)
    assert model.document.input.shape == ["batch", 2, "patch", 3, 16, 16]
    for batch, patches in ((1, 1), (2, 5), (4, 2)):
        clips = frames(batch, 2, patches, 3, 16, 16)
        torch.testing.assert_close(model(clips), truth(checkpoint, clips), atol=1e-5, rtol=0)


@both
def test_the_head_of_features(kind, tmp_path):
    info = FeatureInfo(
        **FEATURES,
        **{"backbone": "dino", "weights": "w", "style": {}, "size": (224, 224), "resize": "swscale", "tokens": "all"},
        dtype="fp16",
        source="s",
    )
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint", "data.precomputed=true", "model.backbone=dino", features=info, size=(224, 224)
    )
    report = ws.export_model(checkpoint, tmp_path / f"model.{kind}")
    assert report.document.input.model_dump() == {
        "name": "features",
        "axes": ["batch", "token", "feature"],
        "shape": ["batch", 8, 8],
        "dtype": "float32",
        "color": None,
        "range": None,
    }
    model, features = ws.load_exported(report.path), torch.randn(6, 8, 8).half()
    assert model.takes_features
    torch.testing.assert_close(model(features), truth(checkpoint, features), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"features must be float32 \(batch, 8, 8\).*got uint8"):
        model(torch.zeros(1, 8, 8, dtype=torch.uint8))


def test_onnx_runs_where_there_is_neither_torch_nor_this_program(exported, run, tmp_path):
    """By the lines of the README, in a process that can import neither."""
    section = (ROOT / "README.md").read_text().partition("\n## Export\n")[2].partition("\n## ")[0]
    lines = re.search(r"(?:^    .*\n|^\n)*?^    import json\n(?:^    .*\n|^\n)+", section, flags=re.MULTILINE).group()
    lines = lines[lines.index("    import json") :]
    assert "numpy.zeros((2, *lengths), numpy.uint8)" in lines
    clips = frames(7, 4, 3, 32, 32)
    np.save(tmp_path / "clips.npy", clips.numpy())
    script = tmp_path / "alone.py"
    script.write_text(
        "import sys\n"
        "for name in ('torch', 'wildstream', 'onnx', 'onnxscript'):\n"
        "    sys.modules[name] = None\n" + textwrap.dedent(lines) + "assert probabilities.shape == (2, 3)\n"
        "numpy.save('found.npy', session.run(None, {'frames': numpy.load('clips.npy')})[0])\n"
        "print(json.dumps(document['categories']))\n"
    )
    shutil.copy(exported["onnx"], tmp_path / "model.onnx")
    done = run_python(script, cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == CATEGORIES
    found = torch.from_numpy(np.load(tmp_path / "found.npy"))
    torch.testing.assert_close(found, truth(run / "best", clips), atol=1e-5, rtol=0)


def test_pt2_runs_with_torch_alone(exported, run):
    module = torch.export.load(exported["pt2"]).module()
    clips = frames(3, 4, 3, 32, 32)
    torch.testing.assert_close(module(clips), truth(run / "best", clips), atol=1e-5, rtol=0)


# --- what it says -----------------------------------------------------------------------------------------------------


@both
def test_the_file_says_what_is_needed_to_use_it(kind, exported, run):
    model = ws.load_exported(exported[kind])
    _, manifest = load_checkpoint(run / "best")
    assert model.document == describe_export(manifest, format=kind)
    assert model.document == ExportDocument.model_validate_json(model.document.model_dump_json())
    assert (model.categories, model.classes, model.task) == (CATEGORIES, CATEGORIES, "multi_label")
    assert (model.style, model.size, model.resize) == (manifest.sliding_style, (32, 32), "torchvision")
    assert model.thresholds == dict.fromkeys(CATEGORIES, 0.25)
    assert (model.levels, model.by_level(frames(1, 4, 3, 32, 32)), model.num_outputs) == ((), {}, 3)
    assert not model.takes_features
    said = model.document
    assert (said.epoch, said.metrics, said.commit) == (3, {"mAP": 0.5, "loss": None}, "123")
    assert (said.output.activation, said.input.color, said.input.range) == ("sigmoid", "RGB", (0, 255))
    assert (said.backbone, said.fingerprint, said.versions) == ("tiny3d", "abc", used_versions())


@both
def test_the_file_names_no_place_of_this_machine(kind, exported, run):
    content = exported[kind].read_bytes()
    for place in (SECRET, str(ROOT), str(run), torch.__path__[0], "site-packages"):
        assert place.encode() not in content


@both
@pytest.mark.parametrize(
    "clips",
    [
        frames(1, 4, 3, 32, 32).float(),
        frames(4, 3, 32, 32),
        frames(1, 5, 3, 32, 32),
        frames(1, 4, 3, 64, 32),
        frames(0, 4, 3, 32, 32),
    ],
    ids=["float", "no batch", "5 frames", "another size", "none"],
)
def test_other_frames_are_refused(kind, clips, exported):
    with pytest.raises(ConfigError, match=r"frames must be uint8 \(batch, 4, 3, 32, 32\) for model\.\w+, got "):
        ws.load_exported(exported[kind])(clips)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_of_a_run_or_any_by_its_folder(run, exported, tmp_path):
    assert ws.load_exported(exported["pt2"]).document.epoch == 3
    assert ws.export_model(run / "last", tmp_path / "last.pt2").document.epoch == 9


@both
def test_a_file_that_gives_something_else_is_not_left(kind, run, tmp_path, monkeypatch):
    trace = writing.trace

    def trace_wrongly(whole, document):
        whole.model.classifier.bias.data += 0.01
        return trace(whole, document)

    monkeypatch.setattr(writing, "trace", trace_wrongly)
    (tmp_path / f"model.{kind}").write_text("before")
    with pytest.raises(ExportError, match=r"other probabilities than the model: they differ by 0\.00\d+ at batches of"):
        ws.export_model(run, tmp_path / f"model.{kind}", force=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"model.{kind}", "before")]


def test_probabilities_that_are_no_numbers_are_a_difference(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loading.ExportedModel, "all_levels", lambda self, inputs: torch.full((len(inputs), 3), float("nan"))
    )
    with pytest.raises(ExportError, match="they differ by nan"):
        ws.export_model(run, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_bound_to_one_batch_size_is_refused_by_name(run, tmp_path, monkeypatch):
    def forward(self, inputs):
        return self.model(inputs) * int(inputs.shape[0])

    monkeypatch.setattr(writing.ProbabilityModel, "forward", forward)
    with pytest.raises(ExportError, match=r"backbone='tiny3d' cannot be written as pt2: .* Try --to onnx"):
        ws.export_model(run, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pth", {}, r"must be a file name that ends in \.onnx or \.pt2"),
        (".onnx", {}, "must be a file name"),
        ("model.onnx", {"to": "pt2"}, r"ends in \.onnx, but --to is pt2"),
        ("nowhere/model.pt2", {}, "nowhere is not a folder. Make it"),
        ("there.pt2", {}, "there already. Take another name, or --force"),
        ("heavy.onnx", {}, r"heavy\.onnx\.data is there already"),
        ("folder.pt2", {"force": True}, r"there already\. Take another name\.$"),
    ],
)
def test_places_that_cannot_be_written_are_refused_at_once(name, options, message, tmp_path):
    (tmp_path / "there.pt2").write_text("before")
    (tmp_path / "heavy.onnx.data").write_text("before")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ConfigError, match=message):
        ws.export_model(tmp_path / "no checkpoint yet", tmp_path / name, **options)
    assert (tmp_path / "there.pt2").read_text() == "before"


def test_urls_and_what_is_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"s3://bucket/model.onnx must be a local file"):
        ws.export_model(tmp_path, "s3://bucket/model.onnx")
    with pytest.raises(ShardError, match="neither a checkpoint nor a finished run"):
        ws.export_model(tmp_path, tmp_path / "model.pt2")
    with pytest.raises(ShardError, match="neither a checkpoint nor a finished run"):
        ws.export_model(tmp_path / "nowhere", tmp_path / "model.pt2")


def test_weights_above_onnx_s_limit_lie_beside_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "ONNX_LIMIT", 1000)
    (tmp_path / "model.onnx").write_text("before")
    report = ws.export_model(run, tmp_path / "model.onnx", force=True)
    assert [file.name for file in report.files] == ["model.onnx.data", "model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert report.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 500_000
    clips = frames(2, 4, 3, 32, 32)
    torch.testing.assert_close(ws.load_exported(report.path)(clips), truth(run / "best", clips), atol=1e-5, rtol=0)
    report.files[0].unlink()
    with pytest.raises(ExportError, match="is no exported model, or damaged"):
        ws.load_exported(report.path)
    report.files[0].write_text("before")
    monkeypatch.undo()
    ws.export_model(run, tmp_path / "model.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_additions_of_lora_become_part_of_the_weights(tmp_path):
    pytest.importorskip("peft", reason="the package peft is an extra")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "model.backbone=test_vit", "model.lora.r=2")
    model, manifest = load_checkpoint(checkpoint)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # it starts at 0, where merging would change nothing
    save_checkpoint(checkpoint, model, manifest)
    report = ws.export_model(checkpoint, tmp_path / "model.pt2")
    clips = frames(2, 4, 3, 32, 32)
    torch.testing.assert_close(ws.load_exported(report.path)(clips), truth(checkpoint, clips), atol=1e-5, rtol=0)
    nodes = torch.export.load(report.path).graph.nodes
    assert not [node for node in nodes if "lora" in node.name and node.op == "call_function"]


@both
def test_packages_that_are_missing_are_named(kind, run, exported, tmp_path, monkeypatch):
    import sys

    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    if kind == "pt2":
        ws.load_exported(exported[kind])
        return
    for use in (lambda: ws.export_model(run, tmp_path / "model.onnx"), lambda: ws.load_exported(exported[kind])):
        with pytest.raises(EnvironmentProblem, match=r"not installed .* pip install 'wildstream\[export\]'"):
            use()


# --- reading what others wrote ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04", bytes(1000)], ids=["empty", "text", "zip", "0"])
def test_files_that_are_no_models_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=r"no exported model, or damaged|was not written by"):
        ws.load_exported(tmp_path / name)


@both
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_files_that_were_cut_off_are_refused(kind, part, exported, tmp_path):
    content = exported[kind].read_bytes()
    path = tmp_path / f"model.{kind}"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ExportError, match="no exported model, or damaged"):
        ws.load_exported(path)


def test_a_changed_byte_of_the_weights_is_found_by_the_checksum(exported, tmp_path):
    content = bytearray(exported["pt2"].read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(ExportError, match="Bad CRC-32"):
        ws.load_exported(tmp_path / "model.pt2")


def test_what_others_exported_says_that_it_is_not_ours(tmp_path):
    layer = torch.nn.Linear(2, 2)
    torch.export.save(torch.export.export(layer, (torch.zeros(1, 2),)), tmp_path / "model.pt2")
    with pytest.raises(ExportError, match="was not written by `wildstream export`"):
        ws.load_exported(tmp_path / "model.pt2")


def test_names_and_places(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.onnx or \.pt2"):
        ws.load_exported(tmp_path / "model.pth")
    with pytest.raises(ExportError, match=r"is not a file. Write one: wildstream export RUN model.onnx"):
        ws.load_exported(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "has schema_version=2, this program reads 1. Take the program that wrote it"),
        ({"format": "onnx"}, r"says of itself that it is \.onnx"),
        ({"categories": ["a"]}, "the document in .* is damaged: .* for 1 classes"),
        ({"style": {"window_size": 0}}, "is damaged: .*window_size=0 must be a whole number"),
        ({"style": {"window": 0}}, "is damaged"),
        ({"task": "regression"}, "is damaged: .*task"),
        ({"surprise": 1}, "is damaged: .*surprise"),
    ],
)
def test_documents_that_are_damaged_or_of_later_programs_are_refused(change, message, exported, tmp_path):
    def alter(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | change).encode() if name.endswith("wildstream.json") else content

    with pytest.raises(ExportError, match=message):
        ws.load_exported(rewrite(exported["pt2"], tmp_path, alter))


def test_onnx_of_a_later_program_is_refused(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported["onnx"])
    (entry,) = [entry for entry in model.metadata_props if entry.key == document.DOCUMENT_NAME]
    entry.value = json.dumps(json.loads(entry.value) | {"schema_version": 7})
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="has schema_version=7"):
        ws.load_exported(tmp_path / "model.onnx")


# --- bytes are data, never code ---------------------------------------------------------------------------------------


def rewrite(path: Path, folder: Path, alter, **more: bytes) -> Path:
    """The same archive with other contents, and more files."""
    out = folder / "model.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, alter(name.removeprefix(f"{root}/"), old.read(name)))
        for name, content in more.items():
            new.writestr(f"{root}/{name}", content)
    return out


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def first_node(graph: dict) -> dict:
    return graph["graph_module"]["graph"]["nodes"][0]


EVIL = "__import__('pathlib').Path('MARK').touch()"


def evil_size(graph: dict, mark: str) -> None:
    sizes = graph["graph_module"]["graph"]["sym_int_values"]
    next(iter(sizes.values()))["as_expr"]["expr_str"] = EVIL.replace("MARK", mark)


def evil_call(graph: dict, mark: str) -> None:
    node = first_node(graph)
    node["target"] = "torch.os.system"
    node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {mark}"}, "kind": 1}]


def evil_file(graph: dict, mark: str) -> None:
    node = first_node(graph)
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [{"name": "filename", "arg": {"as_string": mark}, "kind": 1}]


def evil_string(graph: dict, mark: str) -> None:
    first_node(graph)["inputs"].append({"name": "filename", "arg": {"as_string": mark}, "kind": 1})


def evil_structure(graph: dict, mark: str) -> None:
    spec = {
        "type": "collections.defaultdict",
        "context": json.dumps({"default_factory_module": mark, "default_factory_name": "x", "dict_context": []}),
        "children_spec": [],
    }
    graph["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, spec])


def evil_name(graph: dict, mark: str) -> None:
    """Names become words of Python source when a graph is loaded."""
    output = first_node(graph)["outputs"][0]["as_sym_int"]
    output["as_name"] = f"x=({EVIL.replace('MARK', mark)})"


def evil_object(graph: dict, mark: str) -> None:
    first_node(graph)["inputs"].append({"name": "x", "arg": {"as_custom_obj": {"name": "x", "class_fqn": "y"}}})


def evil_operator(graph: dict, mark: str) -> None:
    first_node(graph)["inputs"].append({"name": "x", "arg": {"as_operator": "torch.os.abort"}})


@pytest.mark.parametrize(
    ("evil", "message"),
    [
        (evil_size, "its graph has expr_str="),
        (evil_call, "its graph has target='torch.os.system'"),
        (evil_file, "its graph has target='torch.ops.aten.from_file.default'"),
        (evil_string, "its graph has as_string="),
        (evil_structure, "its graph has in_spec="),
        (evil_name, r"its graph has "),
        (evil_object, "its graph has 'as_custom_obj'"),
        (evil_operator, "its graph has 'as_operator'"),
    ],
)
def test_graphs_that_could_run_code_are_refused(evil, message, exported, tmp_path):
    mark = tmp_path / "mark"

    def alter(name: str, content: bytes) -> bytes:
        if name != archive.GRAPH:
            return content
        graph = json.loads(content)
        before = json.dumps(graph)
        evil(graph, str(mark))
        assert json.dumps(graph) != before
        return json.dumps(graph).encode()

    path = rewrite(exported["pt2"], tmp_path, alter)
    with pytest.raises(ExportError, match=f"is refused: {message}.* could run code"):
        ws.load_exported(path)
    assert not mark.exists()


def test_guards_are_python_and_are_left_out(exported, tmp_path):
    mark = tmp_path / "mark"

    def alter(name: str, content: bytes) -> bytes:
        if name != archive.GRAPH:
            return content
        return json.dumps(json.loads(content) | {"guards_code": [EVIL.replace("MARK", str(mark))]}).encode()

    ws.load_exported(rewrite(exported["pt2"], tmp_path, alter))(frames(1, 4, 3, 32, 32))
    assert not mark.exists()


def test_pickles_are_refused_or_left_out(exported, tmp_path):
    mark = tmp_path / "mark"
    buffer = io.BytesIO()
    torch.save(((Bomb(mark),), {}), buffer)

    def replace_samples(name: str, content: bytes) -> bytes:
        return buffer.getvalue() if name == archive.SAMPLES else content

    path = rewrite(exported["pt2"], tmp_path, replace_samples)
    ws.load_exported(path)(frames(1, 4, 3, 32, 32))
    assert not mark.exists()
    torch.export.load(path)  # what torch by itself does with it
    assert mark.exists()
    mark.unlink()

    def pickle_tensors(name: str, content: bytes) -> bytes:
        if name not in archive.TABLES:
            return content
        table = json.loads(content)
        for entry in table["config"].values():
            entry["use_pickle"] = True
        return json.dumps(table).encode()

    with pytest.raises(ExportError, match=r"is refused: the tensor '.*' is pickled"):
        ws.load_exported(rewrite(exported["pt2"], tmp_path, pickle_tensors))

    def point_elsewhere(name: str, content: bytes) -> bytes:
        return content.replace(b'"tensor_0"', b'"opaque_obj_0"')

    bomb = {"data/constants/opaque_obj_0": pickle.dumps(Bomb(mark))}
    with pytest.raises(
        ExportError, match=r"is refused: .* lies in 'opaque_obj_0'|it holds 'data/constants/opaque_obj_0"
    ):
        ws.load_exported(rewrite(exported["pt2"], tmp_path, point_elsewhere, **bomb))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "models/other.json", "data/weights/model.pt", "data/weights/../x", "x.py"]
)
def test_files_that_we_do_not_write_are_refused(name, exported, tmp_path):
    path = rewrite(exported["pt2"], tmp_path, lambda _, content: content, **{name: b"x"})
    with pytest.raises(ExportError, match="is refused: it holds"):
        ws.load_exported(path)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "model.pt2", "--to", "pt2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"model.pt2: {(tmp_path / 'model.pt2').stat().st_size:,} bytes\n")
    assert "takes  frames uint8 (batch, 4, 3, 32, 32)\n" in said
    assert "gives  probabilities float32 (batch, 3), sigmoid\n" in said
    assert "differs from the model by " in said
    assert "at batches of 1 and 3\n" in said
    assert said.endswith("next: wildstream predict model.pt2 VIDEO... OUT\n")
    before = (tmp_path / "model.pt2").read_bytes()
    assert main(["export", str(run), "model.pt2"]) == 1
    assert "ConfigError: model.pt2 is there already" in capsys.readouterr().err
    assert (tmp_path / "model.pt2").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


# --- large networks ---------------------------------------------------------------------------------------------------


@pytest.mark.big
@pytest.mark.timeout(600)
@both
@pytest.mark.parametrize(
    ("backbone", "frames_per_clip", "size"),
    [
        ("r2plus1d_18", 4, 64),
        ("s3d", 16, 64),
        ("swin3d_t", 4, 64),
        ("mvit_v2_s", 16, 224),
        ("swinv2", 2, 256),
        ("convnext", 2, 64),
        ("dino", 2, 224),
    ],
)
def test_large_networks(kind, backbone, frames_per_clip, size, tmp_path):
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint",
        f"model.backbone={backbone}",
        f"data.style={{window_size: {frames_per_clip}, samples_per_window: {frames_per_clip}, tolerance_region: 0}}",
        size=(size, size),
    )
    report = ws.export_model(checkpoint, tmp_path / f"model.{kind}")
    assert report.difference <= 1e-4
    clips = frames(2, frames_per_clip, 3, size, size)
    torch.testing.assert_close(ws.load_exported(report.path)(clips), truth(checkpoint, clips), atol=1e-4, rtol=0)
