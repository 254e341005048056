"""The rule of docs/architecture.md, read from that page and applied to a tree of files.

One idea: each check is a function of a folder that returns sentences, one for each thing that is
wrong and what to do about it; the tree is fine where they return nothing. So the tests apply them
to this repository, and to copies of it in which something was planted.

This module holds no name of a file and no exception. What a room is, what stands before it and
which other packages it may import is read from the page.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = "docs/architecture.md"
FOLDERS = {"coevo_env": "coevo_env", "coevo_agents": "agents"}
"""Package -> its folder, as in pyproject.toml; what comes first knows nothing of the rest."""
PYTHON = sys.stdlib_module_names | {"tomllib"}
"""Modules of Python's own, of any version."""
CODE = (*FOLDERS.values(), "benchmarks", "docs", "tests")
FILE_LINES, FUNCTION_LINES = 450, 60
NOT_PRIVATE = {"_replace", "_asdict", "_fields", "_make"}
"""What `typing.NamedTuple` calls its public methods."""


# ---------------------------------------------------------------- the page
@dataclass(frozen=True)
class Plan:
    """What the page says.

    Attributes:
        ranks: Package -> room -> how many `<` stand before it.
        others: (package, room) -> other packages that it may import; None is any.
    """

    ranks: dict[str, dict[str, int]]
    others: dict[tuple[str, str], set[str] | None]

    def left_of(self, package: str, room: str) -> list[str]:
        """Rooms that a room may import."""
        ranks = self.ranks[package]
        return [name for name in ranks if ranks[name] < ranks[room]]

    def right_of(self, package: str, room: str) -> list[str]:
        """Rooms that may import a room."""
        ranks = self.ranks[package]
        return [name for name in ranks if ranks[name] > ranks[room]]


def read_plan(root: Path) -> Plan:
    """Reads the two lines of rooms, and the column of the tables that names other packages."""
    text = (root / PAGE).read_text(encoding="utf-8")
    ranks: dict[str, dict[str, int]] = {}
    others: dict[tuple[str, str], set[str] | None] = {}
    for package in FOLDERS:
        (line,) = re.findall(rf"^    {package} +(.+)$", text, re.MULTILINE)
        ranks[package] = {room: rank for rank, group in enumerate(line.split("<")) for room in group.split()}
        section = text.split(f"### `{package}`", 1)[1].split("\n#", 1)[0]
        for room, cell in re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*)\|$", section, re.MULTILINE):
            others[package, room] = None if cell.strip() == "any" else set(re.findall(r"`(\w+)`", cell))
    return Plan(ranks, others)


def wrong_on_the_page(root: Path) -> list[str]:
    """A room of the lines that is no folder or has no row, or the other way."""
    plan, wrong = read_plan(root), []
    for package, ranks in plan.ranks.items():
        for room in ranks:
            path = root / FOLDERS[package] / room
            if not path.is_dir() and not path.with_suffix(".py").is_file():
                wrong.append(
                    f"{PAGE} has a room {room}, and there is no {FOLDERS[package]}/{room}/ and no "
                    f"{FOLDERS[package]}/{room}.py: make it, or take it from the line of {package}."
                )
        rows = [room for owner, room in plan.others if owner == package]
        if rows != list(ranks):
            wrong.append(
                f"{PAGE}: the table of {package} has the rows {', '.join(rows)}; expected one for each room of the "
                f"line, in its order: {', '.join(ranks)}."
            )
    return wrong


# ---------------------------------------------------------------- modules and what they import
@dataclass(frozen=True)
class Import:
    """A module that is imported: its absolute name, the line, and whether only type checkers do."""

    name: str
    line: int
    for_types: bool


@dataclass
class Module:
    """A file of a package. `room` is "" for the front door, the package's own `__init__.py`."""

    name: str
    path: str
    package: str
    room: str
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)


@functools.cache
def parsed(text: str) -> ast.Module:
    """A file as a tree. Copies of a file are one text, and are read once."""
    return ast.parse(text)


def read_modules(root: Path) -> dict[str, Module]:
    """All modules of the packages by their absolute names, with what they import."""
    modules = {}
    for package, folder in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.py")):
            inside = file.relative_to(root / folder).with_suffix("").parts
            parts = (package, *inside) if inside[-1] != "__init__" else (package, *inside[:-1])
            tree = parsed(file.read_text(encoding="utf-8"))
            room = parts[1] if len(parts) > 1 else ""
            modules[".".join(parts)] = Module(".".join(parts), file.relative_to(root).as_posix(), package, room, tree)
    for module in modules.values():
        module.imports = list(imported(module, set(modules)))
    return modules


def imported(module: Module, known: set[str]) -> Iterator[Import]:
    """What a module imports, inside functions as well."""
    typed = {
        id(node)
        for branch in ast.walk(module.tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    here = module.name.split(".")
    if not module.path.endswith("__init__.py"):
        here = here[:-1]
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in whole]
        for name in dict.fromkeys(names):
            yield Import(name, node.lineno, id(node) in typed)


# ---------------------------------------------------------------- the rule
def files_in_no_room(root: Path) -> list[str]:
    """A file or folder of a package that the page does not know."""
    plan, wrong = read_plan(root), []
    for module in read_modules(root).values():
        rooms = plan.ranks[module.package]
        if module.room and module.room not in rooms:
            wrong.append(
                f"{module.path} is in no room: {PAGE} knows {', '.join(rooms)} in {module.package}. Move it into one "
                f"of these, or add the room {module.room} to the line and to the table of that page."
            )
    return wrong


def imports_the_wrong_way(root: Path) -> list[str]:
    """An import of a room that does not stand further left, of a package that does not come before,
    or of the own package's front door."""
    plan, modules, wrong = read_plan(root), read_modules(root), []
    order = list(FOLDERS)
    for module in modules.values():
        ranks = plan.ranks[module.package]
        if module.room not in ranks:
            continue
        for use in module.imports:
            package, _, rest = use.name.partition(".")
            room, where = rest.partition(".")[0], f"{module.path}:{use.line} imports {use.name}"
            if package not in order:
                continue
            if order.index(package) > order.index(module.package):
                wrong.append(
                    f"{where}: {module.package} knows nothing of {package}. Move the file to {FOLDERS[package]}/, or "
                    "pass the object in."
                )
            elif package == module.package and not rest:
                wrong.append(
                    f"{where}, the front door, which names everything. Import from the module that has the name."
                )
            elif package == module.package and room != module.room and room in ranks:
                if ranks[room] < ranks[module.room]:
                    continue
                order_of = "beside" if ranks[room] == ranks[module.room] else "before"
                free = plan.right_of(package, room)
                move = f"Move the file to a room right of {room} ({', '.join(free)})" if free else "Move the file"
                wrong.append(f"{where}: room {module.room} stands {order_of} {room}. {move}, or pass the object in.")
    return wrong


def imports_of_other_packages(root: Path) -> list[str]:
    """An import of a package that the table does not grant to the room."""
    plan, wrong = read_plan(root), []
    for module in read_modules(root).values():
        granted = plan.others.get((module.package, module.room), None)
        if granted is None:
            continue
        for use in module.imports:
            name = use.name.partition(".")[0]
            if name in FOLDERS or name in granted or name in PYTHON:
                continue
            free = [
                room
                for (package, room), names in plan.others.items()
                if package == module.package and (names is None or name in names)
            ]
            move = f"Move it to a room that may ({', '.join(free)})" if free else "Do without it"
            wrong.append(
                f"{module.path}:{use.line} imports {name}: room {module.room} may import "
                f"{', '.join(sorted(granted)) or 'no other package'}. {move}, pass the object in, or, if the whole "
                f"room shall know {name}, say so in the table of {PAGE}."
            )
    return wrong


def circles(root: Path) -> list[str]:
    """Modules that import each other when they run, imports inside functions included."""
    modules = read_modules(root)
    edges = {
        name: [use for use in module.imports if not use.for_types and use.name in modules and use.name != name]
        for name, module in modules.items()
    }
    wrong, done = [], set()

    def visit(name: str, path: list[Import]) -> None:
        trail = [use.name for use in path]
        if name in trail[:-1]:
            ring = path[trail.index(name) :]
            told = ", ".join(
                f"{modules[ring[i].name].path}:{ring[i + 1].line} imports {ring[i + 1].name}"
                for i in range(len(ring) - 1)
            )
            wrong.append(
                f"a circle: {told}. Move what they share into a module that imports none of them, or pass the object "
                "in."
            )
        elif name not in done:
            for use in edges[name]:
                visit(use.name, [*path, use])
            done.add(name)

    for name in modules:
        visit(name, [Import(name, 0, False)])
    return wrong


# ---------------------------------------------------------------- sizes and private names
def read_code(root: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of every Python file of ours."""
    for folder in CODE:
        for file in sorted((root / folder).rglob("*.py")):
            yield file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")


def too_long(root: Path) -> list[str]:
    """Files that do not fit a sitting, and functions that do not fit a screen. A function that
    defines a class is as long as its class."""
    wrong = []
    for path, text in read_code(root):
        if (lines := text.count("\n")) > FILE_LINES:
            wrong.append(f"{path} has {lines} lines; expected at most {FILE_LINES}. Make two files of it.")
        for node in ast.walk(parsed(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES and not any(isinstance(inner, ast.ClassDef) for inner in ast.walk(node)):
                wrong.append(
                    f"{path}:{node.lineno} {node.name} has {lines} lines; expected at most {FUNCTION_LINES}. Give its "
                    "parts names."
                )
    return wrong


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != "" and name not in NOT_PRIVATE


def defined(tree: ast.Module) -> set[str]:
    """Private names that a module makes: functions, classes, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in names if is_private(name)}


def private_names(root: Path) -> list[str]:
    """Names with an underscore that a module of ours uses and another one makes. Hooks that other
    libraries spell with an underscore are theirs; tests may look inside what they test."""
    trees = {path: parsed(text) for path, text in read_code(root) if not path.startswith("tests/")}
    makers = {path: defined(tree) for path, tree in trees.items()}
    wrong = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            used: list[str] = []
            if isinstance(node, ast.ImportFrom):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                used = [part for part in parts if is_private(part)]
            elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in makers[path]:
                used = [node.attr]
            for name in used:
                if home := next((other for other in makers if name in makers[other] and other != path), ""):
                    wrong.append(
                        f"{path}:{getattr(node, 'lineno', 0)} uses {name}, which is private to {home}. Give it a "
                        "public name there, or have it do what you need."
                    )
    return wrong


# ---------------------------------------------------------------- tests
def folders_of_tests_that_are_no_room(root: Path) -> list[str]:
    """Folders of tests that are named like nothing that could be tested there."""
    rooms = [room for ranks in read_plan(root).ranks.values() for room in ranks]
    return [
        f"tests/{folder.name}/ is named like no room; expected one of {', '.join((*rooms, 'helpers', 'benchmarks'))}."
        for folder in sorted((root / "tests").iterdir())
        if folder.is_dir() and folder.name != "__pycache__" and folder.name not in (*rooms, "helpers", "benchmarks")
    ]
