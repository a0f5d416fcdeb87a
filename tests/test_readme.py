"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

import wildstream as ws
from wildstream.fishtank import make_fishtank

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder in which shards/train lies, with four categories."""
    folder = tmp_path_factory.mktemp("readme")
    make_fishtank(folder / "videos", videos={"train": 2}, frames=60, size=(48, 64))
    ws.pack(folder / "videos", folder / "shards", format="frames", progress=False)
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_snippets_run_one_after_the_other(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert len(SNIPPETS) == 3
    names = {}
    for number, snippet in enumerate(SNIPPETS, start=1):
        exec(compile(snippet, f"README.md, snippet {number}", "exec"), names)  # noqa: S102 - our own text


def test_files_that_the_documents_name_exist():
    for document in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for name in re.findall(r"\b(?:[\w-]+/)*[\w-]+\.(?:py|md)\b", (ROOT / document).read_text()):
            places = [ROOT / name, ROOT / "wildstream" / name, ROOT / "tools" / name]
            found = any(place.exists() for place in places) or list((ROOT / "wildstream").rglob(Path(name).name))
            assert found, f"{document} names {name}"
    text = (ROOT / "README.md").read_text()
    assert [name for name in ws.style_names() if f"`{name}`" not in text] == []
