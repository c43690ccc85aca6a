"""Reads protobuf JSON as ``google.protobuf.json_format.ParseDict`` does, for the two metric writes.

MLflow hands requests to ``ParseDict(ignore_unknown_fields=True)`` and, when that fails, goes on with what it
had read so far; hence a reader that fills a dictionary step by step, in the order of the JSON object.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN

_EXTENSION = re.compile(r"\[[a-zA-Z0-9\._]*\]$")
_MAX_SHOWN = 200


class UnreadableError(Exception):
    """Reading stopped here.

    ``crash`` is set where stock MLflow would not go on with what it has, but answer with status 500.
    """

    def __init__(self, value: object, reason: str, *, crash: bool = False) -> None:
        super().__init__(reason)
        self.crash = crash
        self._value = value
        self._reason = reason
        self._path: list[str] = []

    def add_parent(self, step: str) -> None:
        """Called on the way up: ``.name`` or ``[index]``."""
        self._path.append(step)

    def error(self) -> MlflowError:
        """How to say so to the client."""
        path = "".join(reversed(self._path)).removeprefix(".")
        shown = json.dumps(self._value)
        if len(shown) > _MAX_SHOWN:
            shown = f"{shown[:_MAX_SHOWN]}..."
        return MlflowError(f"Invalid value {shown} for parameter '{path}' supplied: {self._reason}")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: a scalar with its reader, or a list of messages, the only nesting there is."""

    name: str
    read: Callable[[Any], str | int | float] | None = None
    messages: Message | None = None

    @property
    def json_name(self) -> str:
        """lowerCamelCase, protobuf's other spelling of the name."""
        head, *rest = self.name.split("_")
        return head + "".join(word.capitalize() for word in rest)


class Message:
    """A message type: its fields, in the order of their declaration."""

    def __init__(self, *fields: Field) -> None:
        self.by_name = {field.json_name: field for field in fields} | {field.name: field for field in fields}
        self.nested_or_spelled_twice = [
            (field.name, field.json_name, field.messages)
            for field in fields
            if field.messages is not None or field.name != field.json_name
        ]


def refuse_two_spellings(js: object, message: Message) -> None:
    """MLflow refuses an object that spells one field both ways: ``_reject_conflicting_field_aliases``."""
    if not isinstance(js, dict):
        return
    for name, json_name, messages in message.nested_or_spelled_twice:
        if messages is not None:
            value = js.get(name)
            for item in value if isinstance(value, list) else (value,):
                refuse_two_spellings(item, messages)
        elif name in js and json_name in js:
            raise MlflowError(f"Request specifies both '{name}' and '{json_name}'; provide only one of them.")


def read_message(js: object, message: Message, into: dict[str, Any]) -> None:
    """Read a JSON value into ``into``: field names to str, int, float or lists of such dictionaries.

    Absent and null fields are left out. Raises ``UnreadableError`` where protobuf's parser would stop, with
    ``into`` filled as far as it had got.
    """
    if not isinstance(js, dict):
        _read_oddity(js, message)
        return
    fields = message.by_name
    name = ""
    try:
        for name, value in js.items():
            field = fields.get(name)
            if field is None:
                if _EXTENSION.match(name):
                    raise UnreadableError(value, "a name in brackets means an extension, and there are none.")
            elif value is None:
                into.pop(field.name, None)
            elif field.read is not None:
                into[field.name] = field.read(value)
            elif field.messages is not None:
                into[field.name] = []
                _read_messages(value, field.messages, into[field.name])
    except UnreadableError as error:
        error.add_parent(f".{name}")
        raise


def _read_messages(value: object, message: Message, into: list[dict[str, Any]]) -> None:
    if not isinstance(value, list):
        raise UnreadableError(value, "expected a list.")
    try:
        for item in value:
            into.append({})
            if item is None:
                raise UnreadableError(item, "expected an object.")
            read_message(item, message, into[-1])
    except UnreadableError as error:
        error.add_parent(f"[{len(into) - 1}]")
        raise


def _read_oddity(js: object, message: Message) -> None:
    # ParseDict walks over whatever it gets as if over an object's names, and unknown names are ignored.
    if isinstance(js, str | list) and all(
        isinstance(name, str) and name not in message.by_name and not _EXTENSION.match(name) for name in js
    ):
        return
    raise UnreadableError(js, "expected an object.")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise UnreadableError(value, "expected a string.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnreadableError(value, "it contains an unpaired surrogate.") from None
    return value


def _int64(value: Any) -> int:
    number = None
    if isinstance(value, str):
        number = _int_of_text(value)
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else None
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or not INT64_MIN <= number <= INT64_MAX:
        raise UnreadableError(value, "expected a 64-bit integer.")
    return number


def _int_of_text(text: str) -> int | None:
    if " " in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _double(value: Any) -> float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnreadableError(
                value, 'numbers that are not finite are sent as "NaN", "Infinity" and "-Infinity", in quotes.'
            )
        return value
    if isinstance(value, str | int) and value != "nan":
        try:
            return float(value)
        except ValueError:
            pass
        except OverflowError:
            raise UnreadableError(value, "it is too large for a 64-bit float.", crash=True) from None
    raise UnreadableError(value, "expected a double (64-bit floating point).")


_METRIC = Message(
    Field("key", _string),
    Field("value", _double),
    Field("timestamp", _int64),
    Field("step", _int64),
    Field("dataset_name", _string),
    Field("dataset_digest", _string),
    Field("model_id", _string),
    Field("run_id", _string),
)
_PAIR = Message(Field("key", _string), Field("value", _string))

# mlflow/protos/service.proto
LOG_METRIC = Message(
    Field("run_id", _string),
    Field("run_uuid", _string),
    Field("key", _string),
    Field("value", _double),
    Field("timestamp", _int64),
    Field("step", _int64),
    Field("model_id", _string),
    Field("dataset_name", _string),
    Field("dataset_digest", _string),
)
LOG_BATCH = Message(
    Field("run_id", _string),
    Field("metrics", messages=_METRIC),
    Field("params", messages=_PAIR),
    Field("tags", messages=_PAIR),
)
