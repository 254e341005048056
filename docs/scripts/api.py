"""Writes docs/api.md: the public names of each module with the first sentence of what is said of
them in the code.

    python docs/scripts/api.py

One idea: a name is public when a public module lists it in `__all__`; nothing about it is written
twice.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

MODULES = (
    *(
        "coevo_env",
        "coevo_env.faces.aec",
        "coevo_env.faces.parallel",
        "coevo_env.faces.gym_env",
        "coevo_env.faces.batch",
        "coevo_env.faces.build",
        "coevo_env.game.rules",
    ),
    *(
        "coevo_env.game.task",
        "coevo_env.game.scoring",
        "coevo_env.game.arguments",
        "coevo_env.game.splits",
        "coevo_env.tasks",
        "coevo_env.rewards",
        "coevo_env.game.mixing",
        "coevo_env.game.roles",
        "coevo_env.game.kl",
        "coevo_env.game.sampling",
    ),
    *(
        "coevo_env.game.reference",
        "coevo_env.lm.model",
        "coevo_env.lm.load",
        "coevo_env.lm.tokenizer",
        "coevo_env.game.rollout",
        "coevo_env.metrics",
    ),
    *(
        "coevo_env.tasks.toy",
        "coevo_env.tasks.matching",
        "coevo_env.view.render",
        "coevo_env.game.transcript",
        "coevo_env.assets.tfidf",
        "coevo_env.assets.store",
        "coevo_env.lm.names",
    ),
    *("coevo_env.rng", "coevo_env.testing", "coevo_env.errors"),
    *(
        "coevo_agents.runs.config",
        "coevo_agents.runs.settings",
        "coevo_agents.learners.learner",
        "coevo_agents.learners.policy",
        "coevo_agents.learners.ppo",
        "coevo_agents.training.loop",
    ),
    *(
        "coevo_agents.training.evaluate",
        "coevo_agents.training.assess",
        "coevo_agents.methods.communication",
        "coevo_agents.methods.population",
        "coevo_agents.runs.record",
        "coevo_agents.pages.terminal",
        "coevo_agents.pages.progress",
        "coevo_agents.pages.tables",
        "coevo_agents.pages.report",
    ),
)
"""In the order of the page; modules that are not here are internal and may change at any time."""

OTHERS = {
    "__version__": "Version of the package.",
    "ASSETS": "Name -> asset.",
    "REWARDS": "Name -> factory of a reward function.",
    "PER_TOKEN": "The series of numbers that a turn can have, one number per token.",
}
"""Constants of which the code says nothing by itself."""

HEADER = """# Public names

Made by `python docs/scripts/api.py` from the code; the docstrings say more. `import coevo_env` gives the names of the
first table and imports neither torch nor transformers; the other modules are imported by name. What is not listed
here is internal and may change at any time.
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
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
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
        parts.append(
            "\n".join(
                [f"## `{path}`\n", f"{sentence(module.__doc__)}\n", "| name | what it is |", "|---|---|", *rows, ""]
            )
        )
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("api.md").write_text(page(), encoding="utf-8")
