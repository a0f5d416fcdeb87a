"""The environment and home folder → where credentials lie: names of variables and files, never what is in them."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Store:
    """Where the clients of one kind of object store look for credentials."""

    variables: tuple[str, ...]
    """Environment variables that hold them or point to them."""
    file: str
    """The file that logging in writes, relative to the home folder."""
    login: str
    """How to get some."""


STORES = {
    "s3://": Store(
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        ),
        ".aws/credentials",
        "aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "gs://": Store(
        ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        ".config/gcloud/application_default_credentials.json",
        "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "az://": Store(
        (
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
        ),
        ".azure/msal_token_cache.json",
        "az login, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
}
"""By the scheme of its URLs."""


def home() -> Path:
    """The home folder; the root folder for a user who has none, as in some containers."""
    return Path(os.environ.get("HOME") or "/")


def store_places(scheme: str) -> list[str]:
    """Names of the variables that are set and of the file, if it exists, that give access to a kind of store."""
    store = STORES[scheme]
    variables = [name for name in store.variables if os.environ.get(name)]
    return variables + ([f"~/{store.file}"] if (home() / store.file).is_file() else [])


def wandb_place() -> str | None:
    """Name of the variable or file that holds the key for the W&B server in use; None if there is none."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    file = os.environ.get("NETRC", "~/.netrc")
    try:
        logins = netrc.netrc(file.replace("~", str(home()), 1) if file.startswith("~/") else file)
    except (OSError, netrc.NetrcParseError):  # no such file, or not one that wandb could read
        return None
    return file if host in logins.hosts else None
