"""What S3 wants to know of a user, from where the AWS tools keep it: environment, ~/.aws/config and ~/.aws/credentials.

obstore itself reads the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on, likewise GOOGLE_… and AZURE_…), web
identities and what machines in a cloud are given. Profiles are read here; those that log in (single sign-on, assumed
roles, commands) by boto3, where it is installed.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wildstream.errors import ConfigError

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_PLACES = {"region": "region", "endpoint_url": "endpoint"}
_LOGINS = ("role_arn", "sso_session", "sso_start_url", "credential_process", "credential_source", "source_profile")
_OWN_KEYS = {"access_key_id", "skip_signature", "credential_provider"}
_OWN_PLACES = {"region": {"region", "default_region"}, "endpoint": {"endpoint", "endpoint_url", "endpoint_url_s3"}}
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_ENVIRONMENT = {"region": ("AWS_REGION", "AWS_DEFAULT_REGION"), "endpoint": ENDPOINTS}


def s3_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options for S3 that neither the caller nor the environment gave, from the user's profile.

    Args:
        given: Options of the caller, by obstore's names; they come first, then the environment, then the profile.

    Raises:
        ConfigError: AWS_PROFILE names a profile that is not there, or one that only boto3 can log in with.
    """
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    profile = _read_profile(name or "default")
    if profile is None:
        if name is None:
            return {}
        files = " and ".join(map(str, _files()))
        raise ConfigError(f"AWS_PROFILE={name} is not in {files}. Name another profile, or unset AWS_PROFILE.")
    own = {key.lower().removeprefix("aws_") for key in given}
    found: dict[str, Any] = {
        ours: profile[theirs]
        for theirs, ours in _PLACES.items()
        if theirs in profile and not own & _OWN_PLACES[ours] and not any(map(os.environ.get, _ENVIRONMENT[ours]))
    }
    if own & _OWN_KEYS or os.environ.get("AWS_ACCESS_KEY_ID"):
        return found
    if "aws_access_key_id" in profile and "role_arn" not in profile:
        return found | {ours: profile[theirs] for theirs, ours in _KEYS.items() if theirs in profile}
    if any(key in profile for key in _LOGINS):
        return found | {"credential_provider": _by_boto3(name or "default")}
    return found


def _files() -> tuple[Path, Path]:
    """The files that profiles are in."""
    config = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    try:
        return Path(config).expanduser(), Path(credentials).expanduser()
    except RuntimeError:  # a user without a home, as containers have
        return Path(config), Path(credentials)


def _read_profile(name: str) -> dict[str, str] | None:
    """Settings of a profile from both files; None where neither has it."""
    settings: dict[str, str] = {}
    there = False
    for path, section in zip(_files(), (name if name == "default" else f"profile {name}", name), strict=True):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read ({type(error).__name__}). Mend or remove it.") from None
        if parser.has_section(section):
            there = True
            settings |= dict(parser.items(section))
    return settings if there else None


def _by_boto3(profile: str) -> object:
    """Credentials that boto3 gets and renews."""
    if find_spec("boto3") is None:
        raise ConfigError(
            f"AWS profile {profile!r} logs in (single sign-on, a role, or a command), which needs boto3. Install it "
            "with `pip install boto3`, or export AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
        )
    from boto3 import Session
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider(Session(profile_name=profile))
