"""webdataset opens s3://, gs://, az:// and https:// as this package does, once it is imported.

webdataset by itself knows no s3:// and az://, and runs a shell with gsutil or curl for the others. Here requests are
repeated where they fail, and a tar that ends before its end is an error; by webdataset's own way the rest of such a
shard is lost without a word. URLs with a query (presigned ones) stay with webdataset.

webdataset takes seconds to import, so that importing this package does not: it waits until somebody does.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import IO, Any

from wildstream.storage.urls import SCHEMES

_TABLE = "webdataset.gopen"


def register() -> None:
    """Enter the schemes into webdataset's table: now, or as soon as webdataset is imported."""
    if _TABLE in sys.modules:
        _enter(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(importlib.abc.MetaPathFinder):
    """Waits for the import of webdataset's table; finds nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """How to import the table, with the schemes entered at the end."""
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_enter(module: ModuleType) -> None:
                execute(module)
                _enter(module)

            spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec


def _enter(table: Any) -> None:  # noqa: ANN401 - webdataset's module
    """Put the schemes into the table, with what was there for URLs that stay with webdataset."""
    for scheme in SCHEMES:
        before = table.gopen_schemes.get(scheme, table.gopen_schemes["__default__"])
        if not isinstance(before, _Opener):
            table.gopen_schemes[scheme] = _Opener(before)


class _Opener:
    """Opens URLs of one scheme for webdataset."""

    def __init__(self, before: Callable[..., IO[bytes]]) -> None:
        self._before = before

    def __call__(self, url: str, mode: str = "rb", bufsize: int = 8192, **options: Any) -> IO[bytes]:  # noqa: ANN401
        """A URL as a file; writing, and what has a query, is left to webdataset."""
        if mode != "rb" or "?" in url:
            return self._before(url, mode, bufsize, **options)
        from wildstream.storage.access import Storage

        return Storage().open_stream(url)
