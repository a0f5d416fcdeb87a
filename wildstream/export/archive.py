""".pt2 files, written and read so that nothing in them is ever code.

`torch.export.load` by itself is for files that one trusts: it unpickles what the archive calls pickled, evaluates the
expressions of sizes as Python, and makes Python source of guards and names. So it never sees the file here. What is
allowed (tensors as raw bytes, and a graph of plain operators) is copied into an archive in memory, and that is loaded.

    ROOT/data/weights/*, data/constants/*   raw bytes, and a table of what they are   copied; pickled ones are refused
    ROOT/models/model.json                  the graph                                 copied, if every word is known
    ROOT/data/sample_inputs/model.pt        pickled                                   left out; ours takes its place
    ROOT/extra/wildstream.json              the document                              read
    ROOT/archive_version, byteorder, …      constants                                 copied
    all else                                                                          refused
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch.export import ExportedProgram

from wildstream.errors import ExportError
from wildstream.export.document import DOCUMENT_NAME

DOCUMENT_FILE = f"{DOCUMENT_NAME}.json"
GRAPH = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
"""What the raw bytes are."""
_CONSTANTS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_RAW = re.compile(r"data/(weights/weight|constants/tensor)_\d+")

# A graph calls these and nothing else. Of aten's operators those that open files take their names as strings, and
# strings are refused but for the modes and equations below.
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file|save|load)\w+\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(max|min|int|float|ite|not|sum)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
_STRING = re.compile(
    r"none|tanh|floor|trunc|nearest|linear|bilinear|bicubic|trilinear|constant|reflect|replicate|circular"
    r"|[A-Za-z., ]*->[A-Za-z. ]*"  # torch.einsum's equations
)
_EXPRESSION = re.compile(
    r"(Symbol\('[su]\d+'(, (integer|positive|nonnegative)=True)*\)"
    r"|(Integer|Add|Mul|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Max|Min)\(|-?\d+|[(), ])*"
)
_NAME = re.compile(r"\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.+]*", re.ASCII)
_DOTTED_KEYS = ("parameter_name", "buffer_name", "tensor_constant_name", "fqn", "torch_version")
_ARGUMENTS = {
    "as_" + kind
    for kind in (
        *("none", "int", "ints", "float", "floats", "bool", "bools", "string", "strings", "name", "expr", "device"),
        *("tensor", "tensors", "optional_tensor", "optional_tensors", "sym_int", "sym_ints", "sym_float", "sym_bool"),
        *("layout", "memory_format", "scalar_type"),
    )
}
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def write_archive(program: ExportedProgram, path: Path, document: str) -> None:
    """Write a graph and its document."""
    torch.export.save(program, path, extra_files={DOCUMENT_FILE: document})


def read_archive_document(path: Path) -> str | None:
    """The document in an archive, or None; ExportError where the file is no archive, or damaged."""
    with _open(path) as archive:
        root, _ = _members(archive, path)
        name = f"{root}extra/{DOCUMENT_FILE}"
        return _read(archive, name, path).decode("utf-8", errors="replace") if name in archive.namelist() else None


def read_archive(path: Path) -> ExportedProgram:
    """The graph in an archive; ExportError where it is damaged, or holds more than tensors and plain operators."""
    checked = io.BytesIO()
    with _open(path) as archive, ZipFile(checked, "w", ZIP_STORED) as copy:
        root, names = _members(archive, path)
        for name in names:
            if name == SAMPLES or name.startswith("extra/"):
                continue
            content = _read(archive, root + name, path)
            if name == GRAPH:
                content = _check_graph(_parse(content, name, path), path)
            elif name in TABLES:
                _check_table(_parse(content, name, path), path)
            elif not _RAW.fullmatch(name) and name not in _CONSTANTS:
                raise _refused(path, f"it holds {name!r}")
            copy.writestr(f"model/{name}", content)
        samples = io.BytesIO()
        torch.save(((), {}), samples)
        copy.writestr(f"model/{SAMPLES}", samples.getvalue())
    checked.seek(0)
    try:
        return torch.export.load(checked)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, BadZipFile) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ExportError:
    """What to say of a file that cannot be read."""
    said = " ".join(str(error).split()) or type(error).__name__
    return ExportError(f"{path} is no exported model, or damaged: {said:.300}. Copy it again, or export anew.")


def _refused(path: Path, why: str) -> ExportError:
    """What to say of a file that holds what could be code."""
    return ExportError(
        f"{path} is refused: {why:.300}, which `wildstream export` does not write and which could run code. Take the "
        "file from whom you trust, or export the checkpoint anew."
    )


def _open(path: Path) -> ZipFile:
    try:
        return ZipFile(path)
    except BadZipFile as error:
        raise damaged(path, error) from error


def _members(archive: ZipFile, path: Path) -> tuple[str, list[str]]:
    """The folder that all files of an archive lie in, and their names there."""
    names = archive.namelist()
    root = names[0].partition("/")[0] + "/" if names else ""
    if not names or len(set(names)) != len(names) or any(not name.startswith(root) for name in names):
        raise damaged(path, ValueError("its files do not lie in one folder"))
    if any(info.compress_type != ZIP_STORED for info in archive.infolist()):
        raise damaged(path, ValueError("its files are compressed"))
    return root, [name.removeprefix(root) for name in names]


def _read(archive: ZipFile, name: str, path: Path) -> bytes:
    """The bytes of a file, by their checksum."""
    try:
        return archive.read(name)
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, error) from error


def _parse(content: bytes, name: str, path: Path) -> Any:  # noqa: ANN401
    """JSON's value."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, ValueError(f"{name}: {error}")) from error


def _check_table(table: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse tensors that are not raw bytes."""
    entries = table.get("config") if isinstance(table, dict) else None
    if not isinstance(entries, dict):
        raise damaged(path, ValueError("a table of tensors is malformed"))
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refused(path, f"the tensor {name!r} is pickled")
        if not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
            raise _refused(path, f"the tensor {name!r} lies in {entry.get('path_name')!r}")


def _check_graph(content: Any, path: Path) -> bytes:  # noqa: ANN401
    """The graph without what is not needed to run it; refuses any word in it that is not known."""
    try:
        module = content["graph_module"]
        content["guards_code"] = []  # Python source; what goes in is checked by `ExportedModel`
        module["treespec_namedtuple_fields"] = {}
        for node in module["graph"]["nodes"]:
            node["metadata"] = {}
    except (LookupError, TypeError) as error:
        raise damaged(path, ValueError(f"its graph lacks {error}")) from error
    _check_words(content, "", path)
    return json.dumps(content).encode()


def _check_words(value: Any, key: str, path: Path) -> None:  # noqa: ANN401
    """Refuse every string below `value`, which stands under `key`, that is not of its kind."""
    if isinstance(value, dict):
        for name, below in value.items():
            if not _DOTTED.fullmatch(name) or (name.startswith("as_") and name not in _ARGUMENTS):
                raise _refused(path, f"its graph has {name!r}")
            _check_words(below, name, path)
    elif isinstance(value, list):
        for below in value:
            _check_words(below, key, path)
    elif isinstance(value, str) and not _is_known(value, key):
        raise _refused(path, f"its graph has {key}={value!r}")


def _is_known(value: str, key: str) -> bool:
    """Whether a string of the graph is of the kind that stands under this key."""
    if key in ("in_spec", "out_spec"):
        return _is_plain_structure(value)
    kinds = {"target": _OPERATOR, "expr_str": _EXPRESSION, "as_string": _STRING, "as_strings": _STRING}
    kind = kinds.get(key, _DOTTED if key in _DOTTED_KEYS else _NAME)
    return kind.fullmatch(value) is not None


def _is_plain_structure(text: str) -> bool:
    """Whether what goes in or comes out are tensors in tuples, lists and dicts alone."""
    try:
        waiting = [json.loads(text)[1]]
        while waiting:
            spec = waiting.pop()
            if spec["type"] not in _STRUCTURES or spec["context"] not in (None, "null", "[]"):
                return False
            waiting += spec["children_spec"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True
