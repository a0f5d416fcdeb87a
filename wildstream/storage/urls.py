"""What a location is: a path, or a URL; how they are joined, listed in short, and named without their secrets.

    shards/train                      a path; file:///data/shards/train is the same as /data/shards/train
    s3://bucket/shards/train          S3 and what speaks its language; gs:// and az:// alike
    https://host/shards/train         any server that answers requests for ranges
    shards/{000000..000041}.tar       braces stand for many: numbers of one width, or alternatives {a,b}

A `Path` is always a path.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wildstream.errors import ConfigError

SCHEMES = ("s3", "gs", "az", "http", "https")
"""Schemes of URLs that can be read."""
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*):(//)?")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_QUERY = re.compile(r"(\w+://[^\s?#\"]*[?#])[^\s\"]*?([)'>.,:;]*)(?=[\s\"]|$)")
_SECRET = re.compile(r"key|secret|token|password|sas|signature|credential", re.IGNORECASE)
_NOT_SECRET = {"skip_signature", "sse_kms_key_id", "sse_bucket_key_enabled"}
# Also of a password with a slash in it; what follows a colon and is a number up to the slash is a port.
_LOGIN = re.compile(r"(\w+://)(?:[^/\s\"]+|[^/\s\":@]*:(?!\d+/)[^\s\"@]+)@")
_MOST_NAMES = 10_000_000


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL of an object, and not a path.

    Raises:
        ConfigError: It is a URL of a scheme that is not known, or a command to run (`pipe:`).
    """
    if isinstance(location, Path):
        return False
    if not isinstance(location, str):
        raise ConfigError(f"{location!r} must be a path or a URL.")
    found = _SCHEME.match(location)
    if found is None or len(found[1]) == 1 or found[1].lower() == "file":
        return False
    scheme = found[1].lower()
    if scheme == "pipe":
        raise ConfigError(
            "A location that begins with 'pipe:' would run a command. Only wildstream.open_shards(…, allow_pipe=True) "
            "does, for plain WebDataset streams."
        )
    if found[2] and scheme not in SCHEMES:
        raise ConfigError(f"{redact(location)!r}: scheme {scheme!r} is not known. Take a path or {', '.join(SCHEMES)}.")
    return found[2] is not None


def local_path(location: str | Path) -> Path:
    """The path that a location without a server means.

    Raises:
        ConfigError: It is a file:// URL that names a server.
    """
    if not isinstance(location, str) or not location.lower().startswith("file:"):
        return Path(location).expanduser()
    path = location[len("file:") :]
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"{location!r} names a server, {host!r}. Write file:///{host}/{path}, or a path.")
        path = f"/{path}"
    return Path(unquote(path))


def normal(location: str | Path) -> str:
    """A location in the one way it is written: a path, or a URL without a slash at its end."""
    if not is_remote(location):
        return str(local_path(location))
    return str(location).rstrip("/")


def join(folder: str | Path, name: str) -> str:
    """The location of something in a folder; a name that is itself a URL or an absolute path stays as it is."""
    if is_remote(name) or local_path(name).is_absolute():
        return normal(name)
    if not is_remote(folder):
        return str(local_path(folder) / name)
    return f"{normal(folder)}/{name}"


def split(url: str) -> tuple[str, str]:
    """Bucket or server of a URL, with its scheme, and the path in it: ("s3://bucket", "shards/000000.tar").

    Raises:
        ConfigError: The URL names no bucket or server, or has a query, which would be lost on the way.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{redact(url)!r} is no URL: {error}.") from None
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{redact(url)!r} has a ? or #, and what stands behind it is not passed on: names may have neither. Give "
            'keys and tokens as storage_options, such as {"sas_token": …} for az://.'
        )
    if not parts.netloc:
        raise ConfigError(f"{redact(url)!r} names no bucket. Write it as {parts.scheme}://bucket/folder.")
    path = parts.path.strip("/")
    if path and {"", ".", ".."} & set(path.split("/")):
        raise ConfigError(f"{redact(url)!r} has an empty part, '.' or '..' in its path. Write the path without.")
    return f"{parts.scheme.lower()}://{parts.netloc}", path


def expand(pattern: str) -> list[str]:
    """The locations that a pattern stands for, in order; the pattern itself if it has no braces.

    Raises:
        ConfigError: Braces hold neither numbers of one width, increasing, nor alternatives.
    """
    pieces = _BRACES.split(pattern)
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > _MOST_NAMES:
        raise ConfigError(f"{redact(pattern)!r} stands for {total:,} names; {_MOST_NAMES:,} are the most.")
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    """What one pair of braces stands for."""
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
        if first <= last < first + _MOST_NAMES:
            return [f"{number:0{width}d}" for number in range(first, last + 1)]
    elif "," in inside:
        return inside.split(",")
    raise ConfigError(
        f"{redact(pattern)!r}: braces must hold numbers such as {{000000..000041}}, or alternatives such as {{a,b}}."
    )


def has_login(location: str) -> bool:
    """Whether a URL holds a user's name or password."""
    return _LOGIN.search(location) is not None


def is_secret(option: str) -> bool:
    """Whether the value of an option of this name must never be shown or kept."""
    name = option.lower().removeprefix("aws_")
    return name not in _NOT_SECRET and not name.endswith("_file") and _SECRET.search(name) is not None


def redact(text: str) -> str:
    """A text in which no URL has a login, a query or a fragment, which may be keys, signatures or tokens."""
    return _LOGIN.sub(r"\1***@", _QUERY.sub(r"\1***\2", text))
