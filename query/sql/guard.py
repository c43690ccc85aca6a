"""Checks that a query of a user reads the metrics view and nothing else.

Two fences. The text is made of a small set of tokens (no comments, no escapes, no quoted names, no second
statement), so that it cannot break out of the parentheses that it is put into. Then ClickHouse's own parser
says what the text means (``EXPLAIN AST``, which runs nothing), and every node of that tree must be one of a
list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runstream.query.sql.functions import is_allowed
from runstream.schemas.errors import MlflowError

MAX_TEXT = 20_000
_TABLE = "metrics"
# What ClickHouse reads from where a query names no table.
_NO_TABLE = "system.one"

_TOKEN = re.compile(
    r"""
    '[^'\\\x00\r\n]*'                     # text, without escapes
    | \{\s*(?P<name>\w+)\s*:\s*(?P<type>[^{}']+)\}   # a parameter
    | [A-Za-z_][A-Za-z0-9_]* | [0-9][A-Za-z0-9_.]*
    | -(?!-) | /(?![*/]) | [ \t\r\n()\[\],.+*%<>=!?:|]
    """,
    re.VERBOSE,
)
_TYPE = re.compile(
    r"(Array\()?(Nullable\()?(String|U?Int(8|16|32|64)|Float(32|64)|Bool|Date|DateTime)\)?\)?", re.ASCII
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)?")

_PLAIN_NODES = frozenset(
    (
        "SelectWithUnionQuery",
        "SelectQuery",
        "SelectIntersectExceptQuery",
        "ExpressionList",
        "TablesInSelectQuery",
        "TablesInSelectQueryElement",
        "TableExpression",
        "TableJoin",
        "ArrayJoin",
        "Subquery",
        "OrderByElement",
        "InterpolateElement",
        "WindowDefinition",
        "WindowListElement",
        "WithElement",
        "Asterisk",
        "QualifiedAsterisk",
        "ColumnsTransformerList",
        "ColumnsExceptTransformer",
        "Literal",
    )
)
_WITH_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s+as\s*\(", re.IGNORECASE)
_SYSTEM = re.compile(r"\bsystem\s*\.", re.IGNORECASE)
_TEXT = re.compile(r"'[^']*'")
_IN = frozenset(("in", "notin", "nullin", "notnullin", "globalin", "globalnotin"))


def refuse(reason: str) -> MlflowError:
    """The error for a query that is not allowed."""
    return MlflowError(f"This query is not allowed: {reason}")


def check_text(text: str) -> set[str]:
    """Check the tokens and the parentheses; the names of the parameters. Raises ``MlflowError``."""
    if len(text) > MAX_TEXT:
        raise refuse(f"longer than {MAX_TEXT} characters")
    at = depth = 0
    names = set()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise refuse(f"{text[at : at + 10]!r} at position {at} is not part of the language here")
        if token["name"] is not None:
            if _TYPE.fullmatch(token["type"].replace(" ", "")) is None:
                raise refuse(f"no parameter of type {token['type'].strip()}")
            names.add(token["name"])
        depth += (token[0] == "(") - (token[0] == ")")
        if depth < 0:
            raise refuse("a parenthesis too many")
        at = token.end()
    if depth:
        raise refuse("a parenthesis is not closed")
    if not text.strip():
        raise refuse("empty")
    if _SYSTEM.search(_TEXT.sub("''", text)):
        raise refuse(f"no table of the system; there is only {_TABLE}")
    return names


def wrapped(text: str) -> str:
    """The statement that is checked and run. ``text`` has passed ``check_text``."""
    return f"SELECT * FROM (\n{text}\n)"


@dataclass(slots=True)
class _Node:
    kind: str
    name: str
    children: list[_Node] = field(default_factory=list)


def with_names(text: str) -> set[str]:
    """Names that the text may define with ``WITH name AS (…)``; the tree does not tell them."""
    return set(_WITH_NAME.findall(_TEXT.sub("''", text)))


def check_tree(lines: Iterable[str], own_names: Iterable[str]) -> None:
    """Check what ``EXPLAIN AST`` says of the wrapped statement. Raises ``MlflowError``.

    ``own_names`` are ``with_names``, none of which may be the name of a table: it would be that table
    wherever the definition does not reach.
    """
    root = _tree(lines)
    if root.kind != "SelectWithUnionQuery":
        raise refuse("only SELECT")
    tables = {_TABLE, _NO_TABLE, *own_names}
    for node in _walk(root):
        _check_node(node, tables)


def _check_node(node: _Node, tables: set[str]) -> None:
    if node.kind == "Function":
        if not is_allowed(node.name):
            raise refuse(f"no function {node.name}")
        if node.name.lower() in _IN:
            _check_set(node)
    elif node.kind == "TableIdentifier":
        if node.name not in tables:
            raise refuse(f"no table {node.name}; there is only {_TABLE}")
    elif node.kind == "Identifier":
        if _NAME.fullmatch(node.name) is None:
            raise refuse(f"no name {node.name!r}")
    elif node.kind not in _PLAIN_NODES:
        raise refuse(f"{node.kind} is not part of the language here")
    if node.kind == "TableExpression" and any(child.kind == "Function" for child in node.children):
        raise refuse("no table functions")


def _check_set(node: _Node) -> None:
    """The right side of IN must not be a name: ClickHouse would take it for a table."""
    for arguments in node.children:
        if arguments.children and arguments.children[-1].kind in ("Identifier", "TableIdentifier"):
            raise refuse(f"no table {arguments.children[-1].name}")


def _tree(lines: Iterable[str]) -> _Node:
    """The tree of an indented dump such as ``  Function max (alias m) (children 1)``."""
    top = _Node("", "")
    path: list[tuple[int, _Node]] = [(-1, top)]
    for line in lines:
        text = line.lstrip(" ")
        depth = len(line) - len(text)
        kind, _, rest = text.partition(" ")
        name = rest.split(" (", 1)[0]
        if not kind.isalpha():
            raise refuse("a name with a line break")
        node = _Node(kind, "" if name.startswith("(") else name)
        while path[-1][0] >= depth:
            path.pop()
            if not path:
                raise refuse("not a tree")
        path[-1][1].children.append(node)
        path.append((depth, node))
    if len(top.children) != 1:
        raise refuse("only one SELECT")
    return top.children[0]


def _walk(node: _Node) -> Iterable[_Node]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children


def check_parameters(names: set[str], parameters: Mapping[str, Any]) -> None:
    """The parameters given are those that the text names. Raises ``MlflowError``."""
    if names != set(parameters):
        missing, unknown = sorted(names - set(parameters)), sorted(set(parameters) - names)
        raise MlflowError(f"parameters: {missing} missing, {unknown} unknown")
