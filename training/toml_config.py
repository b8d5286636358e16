"""TOML files -> validated dataclasses, for the configurations of training and export."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason

Config = TypeVar("Config")
_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")


def read_toml(path: Path, config: type[Config]) -> Config:
    """Read ``path`` as the pydantic dataclass ``config``, which must forbid extra keys.

    Raises :class:`UsageError` if the file cannot be read, is no TOML, has a key that is unknown
    (the nearest known one is named) or missing, or a value that does not fit.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {reason(error)}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply for a configuration") from error
    except ValueError as error:  # of the encoding or the syntax
        raise UsageError(f"{path} is no valid TOML: {error}") from error
    try:
        return TypeAdapter(config).validate_python(document)
    except ValidationError as error:
        # A key that is misspelt is also missing; the first says more.
        errors = error.errors(include_url=False)
        first = next((item for item in errors if item["type"] in _UNKNOWN_KEY), errors[0])
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] in _UNKNOWN_KEY:
            known = _keys_at(config, first["loc"][:-1])
            raise UsageError(
                f"{path}: unknown key {place}; {suggestion(str(first['loc'][-1]), known)}"
            ) from error
        if first["type"] in ("missing", "missing_argument"):
            raise UsageError(f"{path}: the key {place} is missing; add it") from error
        given = first["input"]
        raise UsageError(f"{path}: {place} = {given!r} does not fit: {first['msg']}") from error


def suggestion(key: str, known: Sequence[str]) -> str:
    """What to say of an unknown ``key``: the nearest of ``known``, or all of them."""
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(known)}"


def _keys_at(config: Any, place: Sequence[str | int]) -> list[str]:
    """The keys of the table that ``place``, a path of keys and list indices, leads to."""
    table = config
    parts = iter(place)
    for part in parts:
        if isinstance(part, int) or not is_dataclass(table):
            continue
        hint = get_type_hints(table).get(str(part))
        if get_origin(hint) is dict:
            next(parts, None)  # a name that the file chose
        choices = [hint, *get_args(hint)]
        table = next((choice for choice in choices if is_dataclass(choice)), None)
    return [field.name for field in fields(table)] if is_dataclass(table) else []
