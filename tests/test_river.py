"""Architecture: imports flow one way, names are public on purpose, files stay small."""

import ast
from pathlib import Path

import pytest

import wildstream

PACKAGE = Path(wildstream.__file__).parent

# From the spring to the sea: a module may import its own stage (for folders) and what stands above it.
RIVER = [
    "errors",
    "locations",
    "sizes",
    "storage",
    "elf",
    "ffmpeg",
    "facts",
    "packets",
    "marks",
    "video",
    "scaling",
    "nvdec",
    "probe",
    "samples",
    "tables",
    "shards.labels",
    "shards.label_files",
    "shards.event_table",
    "shards.boris",
    "shards.elan",
    "shards.cut",
    "shards.stills",
    "shards.formats.scanning",
    "shards.formats.annotated",
    "shards.formats.listed",
    "shards.formats.boris",
    "shards.formats.elan",
    "shards.formats.deepethogram",
    "shards.formats.wlasl",
    "shards.formats.clip_lists",
    "shards.formats.class_folders",
    "shards.formats.clip_tables",
    "shards.formats.images",
    "shards.formats.tidying",
    "shards.formats",
    "shards.copies",
    "shards.wildfins",
    "shards.feature_info",
    "shards.index_schema",
    "shards.index_file",
    "shards.class_map",
    "shards.index",
    "shards.encoders",
    "shards.transcode",
    "shards.ingest",
    "shards.staging",
    "shards.grouping",
    "shards.stratify",
    "shards.split_set",
    "shards.merge",
    "shards.perceptual",
    "shards.places",
    "shards.assignment",
    "shards.pack_report",
    "shards.pack",
    "shards.tar",
    "shards.members",
    "shards.shard_files",
    "shards.adopt",
    "shards.verify",
    "stream.windows",
    "stream.plan",
    "stream.temporal",
    "stream.buffers",
    "stream.storage",
    "shards.leaks",
    "shards.splits",
    "stream.segments",
    "stream.gather",
    "stream.patches",
    "stream.transforms",
    "stream.plain",
    "stream.decode",
    "stream.shuffle",
    "stream.batches",
    "stream.samplers",
    "stream.footprint",
    "stream.ledger",
    "stream.pipeline",
    "stream.workers",
    "stream.loader",
    "stream.quality",
    "stream.dataset",
    "pictures.drawing",
    "pictures.page",
    "pictures.charts",
    "pictures.timelines",
    "pictures.clips",
    "inspection",
    "inspection_page",
    "models.tiny3d",
    "models.backbones.spec",
    "models.backbones.weights",
    "models.backbones.torchvision_video",
    "models.backbones.timm_images",
    "models.backbones.transformers_video",
    "models.backbones",
    "models.heads",
    "models.hierarchy",
    "models.hierarchy_file",
    "models.lora",
    "models.classifier",
    "models.unfreezing",
    "launch",
    "features.encode",
    "features.write",
    "features.extract",
    "features.wildfins",
    "config.options",
    "config.augment",
    "config.data",
    "config.model",
    "config.trainer",
    "config.train",
    "config.compose",
    "training.losses",
    "training.optimization",
    "training.interruption",
    "training.progress",
    "training.data",
    "training.metrics",
    "training.predict",
    "training.checkpoints",
    "training.finetuning",
    "training.kept",
    "training.trackers",
    "training.augmentation",
    "training.trainer",
    "training.run",
    "export.document",
    "export.graph",
    "export.archive",
    "export.loading",
    "export.writing",
    "export",
    "evaluation.tolerance",
    "evaluation.videos",
    "evaluation.groups",
    "evaluation.calibration",
    "evaluation.bootstrap",
    "evaluation.shuffled",
    "evaluation.agreement",
    "evaluation.describe",
    "evaluation.predictions_file",
    "evaluation.render",
    "evaluation.source",
    "evaluation.mirror",
    "evaluation.confusion",
    "evaluation.mistakes",
    "evaluation.report_pictures",
    "evaluation.report_sections",
    "evaluation.report",
    "evaluation.evaluate",
    "prediction.timeline",
    "prediction.events",
    "prediction.boris",
    "prediction.output",
    "prediction.loaded",
    "prediction.sources",
    "prediction.draw",
    "prediction.predict",
    "fishtank",
    "doctor",
    "demo",
    "commands",
    "shards.command",
    "shards.split_command",
    "features.command",
    "evaluation.command",
    "prediction.command",
    "cli",
]
DUMPING_GROUNDS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def place(name: str) -> int:
    """Where in the river a module lies; a folder that is listed as a whole counts for all its modules."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in RIVER:
            return RIVER.index(".".join(parts[:length]))
    raise AssertionError(f"wildstream.{name} has no place in the river; add it to RIVER")


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative import"
    return {name.removeprefix("wildstream.") for name in found if name.startswith("wildstream.")}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if module_name(path))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_what_lies_upstream(path):
    name = module_name(path)
    if path.name == "__init__.py" and name not in RIVER:
        assert not imports(ast.parse(path.read_text())), "the __init__ of a stage imports nothing"
        return
    here = place(name)
    for imported in imports(ast.parse(path.read_text())):
        own_folder = imported.split(".")[0] == name.split(".")[0] and name.split(".")[0] in RIVER
        assert own_folder or place(imported) < here, f"{name} imports {imported}, which lies downstream"


def test_the_river_names_only_what_exists():
    names = {module_name(path) for path in MODULES}
    assert [name for name in RIVER if name not in names] == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_are_small_documented_and_well_named(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert path.stem not in DUMPING_GROUNDS


def test_public_names_are_those_that_the_type_checker_sees():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(wildstream.__all__)
    for name in wildstream.__all__:
        assert getattr(wildstream, name) is not None
    assert dir(wildstream) == list(wildstream.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wildstream.nothing  # noqa: B018
