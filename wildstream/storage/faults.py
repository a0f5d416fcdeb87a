"""What a failed request means: whether it may pass, and what to say if not, without anything secret."""

from __future__ import annotations

import re
from collections.abc import Sequence

from obstore import exceptions

from wildstream.errors import StorageError
from wildstream.storage import urls

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Where nobody gave keys, obstore asks a machine of the cloud for them, in vain.
_NOT_PERMITTED = re.compile(r"169\.254\.169\.254|/latest/api/token|status code: 40[13]")
_PASSING = {408, 425, 429}
_LASTING = {501, 505}  # the server cannot, and never will
_DEEPER = re.compile(
    r"TimedOut|timed out|reset by peer|refused|unexpected EOF|IncompleteBody|dns error|IncompleteMessage"
    r"|InvalidCertificate|InvalidContentType"
)
_NO_TRUST = {
    "InvalidCertificate": " Its certificate is not trusted; name the file of whoever signed it in SSL_CERT_FILE.",
    "InvalidContentType": " It does not speak TLS; write http:// if that is meant.",
}


class MissingObjectError(StorageError):
    """There is no such object."""


class ShortReadError(Exception):
    """A body ended too early."""


def explain(error: Exception, url: str, cause: str) -> StorageError | None:
    """What to raise for a fault of a request; None for one that may be gone when it is made again.

    Args:
        error: What obstore raised.
        url: What was asked for.
        cause: What went wrong in a few words.
    """
    text = str(error)
    if "NoSuchBucket" in text:
        return _no_bucket(url)
    if isinstance(error, FileNotFoundError):
        return _missing(url)
    if isinstance(error, exceptions.PreconditionError):
        return StorageError(
            f"{urls.redact(url)} was changed while it was being read: it has another ETag than before. Leave "
            "shards as they are during a run; open the index anew if they were packed again."
        )
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
        return _forbidden(url, error)
    if _NOT_PERMITTED.search(text) and not _passes(text):
        return _forbidden(url, error)
    if isinstance(error, exceptions.NotSupportedError) or "non-partial response" in text:
        return _no_ranges(url)
    if "status code: 416" in text:
        return StorageError(
            f"{urls.redact(url)} ends before the bytes that were wanted; it is truncated or of another packing. "
            "Restore it, or pack the videos again."
        )
    if _may_pass(error):
        return None
    remedy = "".join(words for reason, words in _NO_TRUST.items() if reason in text)
    return StorageError(f"{urls.redact(url)} cannot be read or written: {cause}.{remedy}")


def name_cause(error: Exception, secrets: Sequence[str]) -> str:
    """What went wrong in a few words; `secrets` are not among them."""
    text = str(error).split("\n\nDebug source", maxsplit=1)[0]
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return f"status {status[1]}" + (f" {code[1]}" if code else "")
    deeper = _DEEPER.findall(str(error))
    text = text.splitlines()[0] if text else type(error).__name__
    if deeper and deeper[0] not in text:
        text = f"{text} ({deeper[0]})"
    for secret in secrets:
        text = text.replace(secret, "***")
    return urls.redact(text).rstrip(".")


def _may_pass(error: Exception) -> bool:
    """Whether a fault may be gone when asked again."""
    if not isinstance(error, (exceptions.GenericError, ShortReadError, OSError)):
        return False
    text = str(error)
    if _STATUS.search(text) is None:
        return not any(reason in text for reason in _NO_TRUST)
    return _passes(text) or "<Code>RequestTimeout</Code>" in text


def _passes(text: str) -> bool:
    """Whether a server answered with a status that may be another when it is asked again."""
    status = _STATUS.search(text)
    number = int(status[1]) if status else 0
    return (number >= 500 and number not in _LASTING) or number in _PASSING


def _no_ranges(url: str) -> StorageError:
    """What to raise where a server gives an object whole or not at all."""
    return StorageError(
        f"{urls.redact(url)}: the server does not answer requests for ranges of bytes. Take one that does, or copy the "
        "shards."
    )


def _no_bucket(url: str) -> StorageError:
    """What to raise where there is no such bucket, which is never as well as an object that is not there yet."""
    return StorageError(
        f"there is no bucket {_named(url)[0]}. Check its name, and the endpoint and region that it is looked for at."
    )


def _named(url: str) -> tuple[str, str]:
    """Server and path of a URL, for people to read."""
    server, path = urls.split(url)
    return urls.redact(f"{server}/").rstrip("/"), path


def _missing(url: str) -> MissingObjectError:
    """What to raise where there is no such object."""
    server, path = _named(url)
    return MissingObjectError(
        f"there is no {path} in {server}. Check the name; shards may have been moved, or not be uploaded yet."
    )


def _forbidden(url: str, error: Exception) -> StorageError:
    """What to raise where access is refused."""
    server, path = _named(url)
    code = _CODE.search(str(error))
    remedy = {
        "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; public buckets want "
        'storage_options={"skip_signature": True}',
        "gs": "Set GOOGLE_APPLICATION_CREDENTIALS, or log in with `gcloud auth application-default login`",
        "az": "Set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    }.get(server.split(":")[0], "Ask whoever runs the server")
    why = f" ({code[1]})" if code else ""
    return StorageError(
        f"not permitted: {path or 'the list'} in {server}{why}. {remedy}; ask for the right to read if they are."
    )
