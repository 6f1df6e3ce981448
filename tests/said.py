"""What tests of sentences share: a run with other cells, and which numbers were typed."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection
from types import ModuleType
from typing import Any

import pandas as pd

from bench.store import Store

WORDS = "two|three|four|five|six|seven|eight|nine|ten|dozen|twenty|hundred|thousand|half"
NUMBER = rf"\d|\b(?:{WORDS})\b"


class Changed:
    """The store with other cells."""

    def __init__(self, store: Store, cells: pd.DataFrame) -> None:
        self._store, self._cells = store, cells

    def cells(self) -> pd.DataFrame:
        return self._cells

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def typed_numbers(
    module: ModuleType, functions: str, defined: str, formats: Collection[str], *, fewest: int
) -> list[str]:
    """The strings with a number in them that functions say whose names match `functions`, which
    must be `fewest` or more. `defined` are numbers that are names; the later arguments of calls
    of `formats` say nothing."""
    tree = ast.parse(inspect.getsource(module))
    found = [
        n for n in tree.body if isinstance(n, ast.FunctionDef) and re.search(functions, n.name)
    ]
    assert len(found) >= fewest, [function.name for function in found]
    return [text for function in found for text in _sentences(function, formats)
            if re.search(NUMBER, re.sub(defined, "", text), re.IGNORECASE)]  # fmt: skip


def _sentences(function: ast.FunctionDef, formats: Collection[str]) -> list[str]:
    """The strings it says: no docstring, no column's name, no format."""
    apart = {id(part) for node in ast.walk(function) for part in _not_said(node, formats)}
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart
    ]


def _not_said(node: ast.AST, formats: Collection[str]) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef):
        return [node.body[0].value] if isinstance(node.body[0], ast.Expr) else []
    if isinstance(node, ast.Subscript):
        return list(ast.walk(node.slice))
    if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
        return list(ast.walk(node.format_spec))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in formats:
        return [part for argument in node.args[1:] for part in ast.walk(argument)]
    return []
