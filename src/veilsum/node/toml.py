"""TOML in both directions, with errors that name the file, the dotted key and what to do.

Only the modules beside this one that describe a file read TOML, and through this one.
"""

import datetime as dt
import difflib
import json
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from veilsum.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)


class Place(NamedTuple):
    """Where in which file something stands."""

    file: Path
    key: str = ""

    def inner(self, name: str) -> "Place":
        """Return the place of a key in here."""
        return Place(self.file, f"{self.key}.{name}" if self.key else name)

    def error(self, message: str, remedy: str) -> ConfigError:
        """Return the error that something is wrong here."""
        where = f"{self.file.name}: {self.key}: " if self.key else f"{self.file}: "
        return ConfigError(where + message, remedy=remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a remedy: the known name that looks like this one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(names)}" if names else "none is declared yet"


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it is not there, cannot be read or is not TOML.
    """
    return parse(read_text(path), path)


def dump(table: Mapping[str, Any]) -> str:
    """Return TOML for a table of strings, whole numbers, tables and lists of tables."""
    return "".join(_toml_lines(table, ""))


def parse(text: str, file: Path) -> dict[str, Any]:
    """Read TOML text; ``file`` is named where it is wrong.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{file}: {str(error)[:1].lower()}{str(error)[1:]}",
            remedy="correct that line; texts stand in double quotes, dates do not",
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deeply", remedy="write it flat") from error


def read_text(path: Path) -> str:
    """Read a small UTF-8 file.

    Raises:
        ConfigError: it is not there, cannot be read or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist", remedy=_how_to_make(path)) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", remedy="check its owner and permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", remedy="save it as UTF-8, or copy it again") from error


def check_private(path: Path) -> None:
    """Check that only its owner can read a file.

    Raises:
        ConfigError: its group or others can.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", remedy=_how_to_make(path)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} can be read or written by others", remedy=f"chmod 600 {path}")


def _how_to_make(path: Path) -> str:
    makers = {
        "party.toml": "make it with `veilsum identity new NAME`, or name its folder with --home",
        "federation.toml": "make it with `veilsum federation add CARD`",
        ".key": "make it with `veilsum identity new`",
        ".card": "ask its owner to send what `veilsum identity card` writes",
    }
    default = (
        "check the path; `veilsum init KIND` writes an example job"
        if path.suffix == ".toml"
        else "check the path"
    )
    return makers.get(path.name) or makers.get(path.suffix) or default


def read_table(content: Any, kind: type[T], place: Place) -> T:
    """Convert a TOML table to a struct, key by key, so that every error names its key.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type.
    """
    if not isinstance(content, dict):
        raise place.error(f"must be a table, found {type_name(content)}", "write it as key = value pairs")
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in content:
        if key not in fields:
            raise place.inner(key).error("is not a known key", nearest(key, fields))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in content:
            values[name] = _value(content[name], field.type, place.inner(name))
        elif field.required:
            raise place.inner(name).error("is missing", f"add a line `{name} = …`")
    return kind(**values)


def _value(content: Any, kind: Any, place: Place) -> Any:
    if kind is dt.date and type(content) is not dt.date:  # msgspec would read a date out of a string
        raise place.error(
            f"must be a date, found {type_name(content)}", "write it without quotes: 2027-01-01"
        )
    if get_origin(kind) is dict and isinstance(content, dict):
        inner_kind = get_args(kind)[1]
        return {key: _value(value, inner_kind, place.inner(key)) for key, value in content.items()}
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        message, _, inner = str(error).partition(" - at `$")
        types = re.fullmatch(r"Expected `(.+)`, got `(.+)`", message)
        if types is None:
            raise place.error(message, "correct this key") from error
        expected, found = (
            " or ".join(_TOML_TYPES.get(t, t) for t in part.split(" | ")) for part in types.groups()
        )
        where = " in an inner key" if inner else ""
        raise place.error(f"must be {expected}, found {found}{where}", f"write {expected} here") from error


_TOML_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "date": "a date",
    "datetime": "a date with a time",
    "time": "a time",
}


def type_name(content: Any) -> str:
    """Return what TOML's user calls the type of a value."""
    name = {"dict": "object", "list": "array"}.get(type(content).__name__, type(content).__name__)
    return _TOML_TYPES.get(name, name)


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterable[str]:
    """Yield plain keys first, then inner tables, as TOML demands."""
    for key, value in table.items():
        if isinstance(value, (str, int)):
            yield f"{_toml_key(key)} = {_toml_scalar(value)}\n"
    for key, value in table.items():
        path = f"{prefix}.{_toml_key(key)}" if prefix else _toml_key(key)
        if isinstance(value, Mapping):
            if not value or not all(isinstance(inner, Mapping) for inner in value.values()):
                yield f"\n[{path}]\n"
            yield from _toml_lines(value, path)
        elif isinstance(value, list):
            for entry in value:
                yield f"\n[[{path}]]\n"
                yield from _toml_lines(entry, path)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_scalar(key)


def _toml_scalar(value: str | int) -> str:
    """Write a JSON string, which is a TOML basic string except for the bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
