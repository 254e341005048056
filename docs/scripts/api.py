"""Writes docs/api.md: the public names of each module with the first sentence of what is said of them in the code.

    python docs/scripts/api.py

One idea: a name is public when a public module lists it in `__all__`; nothing about it is written twice.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

MODULES = (
    *("coevo_env", "coevo_env.aec", "coevo_env.parallel", "coevo_env.gym_env", "coevo_env.batch", "coevo_env.build", "coevo_env.core"),
    *("coevo_env.task", "coevo_env.rewards", "coevo_env.mixing", "coevo_env.roles", "coevo_env.kl", "coevo_env.sampling"),
    *("coevo_env.reference", "coevo_env.lm", "coevo_env.loading", "coevo_env.tokenizer", "coevo_env.rollout", "coevo_env.metrics"),
    *(
        "coevo_env.tasks.toy",
        "coevo_env.tasks.matching",
        "coevo_env.render",
        "coevo_env.transcript",
        "coevo_env.tfidf",
        "coevo_env.assets",
        "coevo_env.models",
    ),
    *("coevo_env.rng", "coevo_env.testing", "coevo_env.errors"),
    *("coevo_agents.config", "coevo_agents.learner", "coevo_agents.policy", "coevo_agents.ppo", "coevo_agents.loop"),
    *("coevo_agents.evaluate", "coevo_agents.communication", "coevo_agents.population", "coevo_agents.record", "coevo_agents.show"),
)
"""In the order of the page; modules that are not here are internal and may change at any time."""

OTHERS = {
    "__version__": "Version of the package.",
    "ASSETS": "Name -> asset.",
    "MODES": "Names of the reward mixings.",
    "PER_TOKEN": "The series of numbers that a turn can have, one number per token.",
}
"""Constants of which the code says nothing by itself."""

HEADER = """# Public names

Made by `python docs/scripts/api.py` from the code; the docstrings say more. `import coevo_env` gives the names of the first table and imports
neither torch nor transformers; the other modules are imported by name. What is not listed here is internal and may change at any time.
"""


def names(module: str) -> list[str]:
    """The public names of a module."""
    return list(importlib.import_module(module).__all__)


def sentence(text: str | None) -> str:
    """The first sentence of a docstring, fit for a table."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    first = re.split(r"(?<! al\.)(?<=\.) (?=[A-Z`])", paragraph)[0]
    return first.rstrip(":").replace("|", "\\|")


def said(module: Any, name: str) -> str:
    """What the code says of a name: its docstring, or the string below its assignment."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return sentence(inspect.getdoc(value))
    home = importlib.import_module(value.__module__) if getattr(value, "__module__", "") == module.__name__ else module
    body = ast.parse(inspect.getsource(home)).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        here = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if here and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return sentence(str(following.value.value))
    return OTHERS[name]


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for path in MODULES:
        module = importlib.import_module(path)
        rows = [f"| `{name}` | {said(module, name)} |" for name in names(path)]
        parts.append("\n".join([f"## `{path}`\n", f"{sentence(module.__doc__)}\n", "| name | what it is |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("api.md").write_text(page(), encoding="utf-8")
