"""What all groups of options share: strictness, and kinds of values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wildstream.models.heads import choose


class Strict(BaseModel):
    """A group of options; unknown ones are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def one_of(what: str, table: dict[str, Any]) -> AfterValidator:
    """A check that a name is in a table."""

    def check(name: str) -> str:
        choose(what, name, table)
        return name

    return AfterValidator(check)


def expand(path: Path) -> Path:
    """A path with ~ as the home folder."""
    return path.expanduser()


def make_absolute(path: Path) -> Path:
    """The same, absolute, so that a run can be used from anywhere."""
    return expand(path).absolute()


Positive = Annotated[int, Field(ge=1, strict=True)]
Number = Annotated[float, Field(strict=True)]
