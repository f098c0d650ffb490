"""A program's statements: what each defines and needs."""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from collections.abc import Collection
from itertools import chain
from typing import NamedTuple

_FUTURE = re.compile(r"^from __future__ import [\w, ]+$", re.M)


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement gives a meaning: of a function, class, import or assignment."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Import() | ast.ImportFrom():
            return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            nodes = chain.from_iterable(map(ast.walk, targets))
            return {node.id for node in nodes if isinstance(node, ast.Name)}
    return set()


class _Statement(NamedTuple):
    """A statement at a program's top level."""

    names: set[str]
    """What it gives a meaning; of `if` and `try`, what the statements right below do."""
    code: str


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)


def statements_of(code: str) -> list[_Statement]:
    """Return a program's top-level statements, each with its lines and names."""
    lines = code.split("\n")
    found = []
    for node in _parse(code).body:
        inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
        # "try: import numpy" and "if a: def f" give their names to the program too.
        is_branching = isinstance(node, ast.If | ast.Try)
        names = set().union(*map(_names, inner)) if is_branching else _names(node)
        # A function's own line is that of def, below its decorators.
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        found.append(_Statement(names, "\n".join(lines[first - 1 : node.end_lineno])))
    return found


def defined(code: str) -> set[str]:
    r"""Return the names that a program defines at its top level.

    >>> sorted(defined("from math import gcd as g, pi\nf = lambda x: x\nclass A: pass"))
    ['A', 'f', 'g', 'pi']
    """
    return set().union(*(statement.names for statement in statements_of(code)))


def used_names(code: str) -> set[str]:
    """Return the global names that a program reads."""
    used: set[str] = set()
    with warnings.catch_warnings(action="ignore"):
        tables = [symtable.symtable(code, "<solution>", "exec")]
    while tables:
        table = tables.pop()
        is_module = table.get_type() == "module"
        # Names inside of functions are the program's only where the function doesn't bind them itself.
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (is_module or s.is_global())}
        tables += table.get_children()
    return used


def is_stub(code: str, names: Collection[str]) -> bool:
    """Tell whether a program has no more than the heads of these functions: `pass`, `...` or a docstring below."""
    functions = [node for node in _parse(code).body if isinstance(node, ast.FunctionDef) and node.name in names]
    lines = list(chain.from_iterable(function.body for function in functions))
    return bool(lines) and all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in lines
    )


def future_first(program: str) -> str:
    r"""Put a program's ``from __future__`` lines first, where alone they may stand.

    >>> future_first("import math\nfrom __future__ import annotations")
    'from __future__ import annotations\nimport math\n'
    """
    lines = "".join(f"{line}\n" for line in _FUTURE.findall(program))
    return lines + _FUTURE.sub("", program) if lines else program
