"""What code says, whatever its comments, docstrings, line breaks and version of Python.

One idea: two texts with one syntax tree do the same. The tree is written down with what it has and
without where it stands, so that no Python that comes after names a part that is empty here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import textwrap
from types import CodeType
from typing import Any

__all__ = ["local_imports", "meaning"]

DROPPED = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that follow from the others, or are comments."""


def meaning(what: Any) -> str:
    """The digest of what a function or class does: of its syntax tree; of a lambda in the midst of
    a line of the line; of code that was typed in of its instructions.

    >>> def one(x):
    ...     return x
    >>> meaning(one) == meaning(lambda x: x)
    False
    """
    try:
        text = inspect.getsource(what)
    except (OSError, TypeError):  # typed in, or not Python
        code = getattr(what, "__code__", None)
        return _digest(_instructions(code)) if isinstance(code, CodeType) else ""
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError:
        return _digest(text)
    if not re.search(r"__doc__|getdoc|docstring", text):  # else it may be read
        _without_docstrings(tree)
    return _digest(_written(tree))


def local_imports(what: Any) -> list[Any]:
    """What a function imports inside, as objects; what cannot be imported is left out."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(what)))
    except (OSError, TypeError, SyntaxError):
        return []
    found, package = [], (getattr(what, "__module__", None) or "").rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [_imported(alias.name, "", package) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            found += [_imported(name, alias.name, package) for alias in node.names]
    return [one for one in found if one is not None]


def _imported(module: str, name: str, package: str) -> Any:
    try:
        found = importlib.import_module(module, package or None)
        return getattr(found, name, found) if name else found
    except Exception:  # it may raise anything, and does so again when the reward is called
        return None


def _without_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] if isinstance(first.value.value, str) else node.body


def _written(node: Any) -> Any:
    if isinstance(node, list):
        return [_written(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in DROPPED]
    return [
        type(node).__name__,
        *([name, _written(value)] for name, value in fields if value is not None and value != []),
    ]


def _digest(what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _instructions(code: CodeType) -> list[Any]:
    parts = [_instructions(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code.hex(), parts, list(code.co_names), list(code.co_varnames)]
