"""The tree is what docs/architecture.md says, and the checks that say so can fail: each is tried on
a copy in which one thing was planted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import floor_plan
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKS = (
    floor_plan.wrong_on_the_page,
    floor_plan.files_in_no_room,
    floor_plan.imports_the_wrong_way,
    floor_plan.imports_of_other_packages,
    floor_plan.circles,
    floor_plan.too_long,
    floor_plan.private_names,
    floor_plan.folders_of_tests_that_are_no_room,
)
LINE = "    coevo_env     errors rng view < game"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_tree_is_what_the_page_says(check):
    assert not (found := check(ROOT)), "\n".join(found)


def test_what_the_page_names_is_there():
    """Where a new file goes: the folder of every file to write, and the registry of every row."""
    page = (ROOT / floor_plan.PAGE).read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.split("## Where a new file goes")[1].splitlines() if line[:2] == "| "]
    assert len(rows) >= 6
    for _, what, write, registry, *_ in rows[1:]:
        (file,) = re.findall(r"`((?:coevo_env|agents|benchmarks)/[\w/]+\.py)`", write)
        assert (ROOT / file).parent.is_dir(), what
        for name, home in re.findall(r"`(\w+)` in `([\w/]+\.py)`", registry):
            known = re.search(rf"^{name}\b.* = ", (ROOT / home).read_text(encoding="utf-8"), re.MULTILINE)
            assert known, f"{floor_plan.PAGE} says that {what.strip()} is named in {name}, and {home} has no {name}"


# ---------------------------------------------------------------- what is planted is found
@pytest.fixture
def copy(tmp_path) -> Path:
    """The page, the code of both packages and the folders of the tests."""
    sources = shutil.ignore_patterns("__pycache__", "embedded", "templates")
    for folder in floor_plan.FOLDERS.values():
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=sources)
    for folder in (ROOT / "tests").iterdir():
        if folder.is_dir():
            (tmp_path / "tests" / folder.name).mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / floor_plan.PAGE, tmp_path / "docs")
    return tmp_path


PLANTED = [
    (
        floor_plan.files_in_no_room,
        {"coevo_env/utils.py": "", "agents/helpers/text.py": ""},
        [
            "coevo_env/utils.py is in no room: docs/architecture.md knows errors, rng, view, game",
            "agents/helpers/text.py is in no room: docs/architecture.md knows learners, methods",
        ],
    ),
    (
        floor_plan.imports_the_wrong_way,
        {"coevo_env/game/x.py": "def f():\n    from ..lm.names import resolve\n    return resolve"},
        [
            "coevo_env/game/x.py:2 imports coevo_env.lm.names: room game stands before lm. Move the file to a room "
            "right of lm (rewards, tasks, faces, testing), or pass the object in."
        ],
    ),
    (
        floor_plan.imports_the_wrong_way,
        {"coevo_env/metrics.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .assets import store"},
        ["coevo_env/metrics.py:3 imports coevo_env.assets.store: room metrics stands beside assets. Move the file to"],
    ),
    (
        floor_plan.imports_the_wrong_way,
        {"coevo_env/testing/x.py": "import coevo_agents.cli", "coevo_env/lm/x.py": "from coevo_env import KLConfig"},
        [
            "coevo_env/lm/x.py:1 imports coevo_env, the front door, which names everything. Import from the module",
            "coevo_env/testing/x.py:1 imports coevo_agents.cli: coevo_env knows nothing of coevo_agents. Move the file",
        ],
    ),
    (
        floor_plan.imports_of_other_packages,
        {"coevo_env/game/x.py": "import numpy as np\n\ndef f():\n    import torch.nn"},
        [
            "coevo_env/game/x.py:4 imports torch: room game may import numpy. Move it to a room that may (assets, lm, "
            "rewards, testing), pass the object in, or, if the whole room shall know torch, say so in the table of"
        ],
    ),
    (
        floor_plan.imports_of_other_packages,
        {"agents/runs/x.py": "from benchmarks import quality"},
        ["agents/runs/x.py:1 imports benchmarks: room runs may import numpy, pydantic"],
    ),
    (
        floor_plan.circles,
        {
            "coevo_env/game/a.py": "from . import b",
            "coevo_env/game/b.py": "def f():\n    from .c import g",
            "coevo_env/game/c.py": "from .a import h",
        },
        [
            "a circle: coevo_env/game/a.py:1 imports coevo_env.game.b, coevo_env/game/b.py:2 imports coevo_env.game.c, "
            "coevo_env/game/c.py:1 imports coevo_env.game.a. Move what they share"
        ],
    ),
    (
        floor_plan.too_long,
        {"coevo_env/game/x.py": "def f():\n" + "    print()\n" * 60, "agents/runs/x.py": "\n" * 451},
        [
            "coevo_env/game/x.py:1 f has 61 lines; expected at most 60. Give its parts names.",
            "agents/runs/x.py has 451 lines; expected at most 450. Make two files of it.",
        ],
    ),
    (
        floor_plan.private_names,
        {
            "coevo_env/game/x.py": "def _planted(): ...\n\nclass X:\n    def __init__(self):\n        self._inner = 1",
            "coevo_env/game/y.py": "from .x import _planted",
            "agents/runs/x.py": "def f(x):\n    return x._inner",
        },
        [
            "coevo_env/game/y.py:1 uses _planted, which is private to coevo_env/game/x.py. Give it a public name there",
            "agents/runs/x.py:2 uses _inner, which is private to coevo_env/game/x.py. Give it a public name there",
        ],
    ),
    (
        floor_plan.folders_of_tests_that_are_no_room,
        {"tests/misc/test_x.py": ""},
        ["tests/misc/ is named like no room; expected one of errors, rng, view, game"],
    ),
]


@pytest.mark.parametrize(("check", "files", "sentences"), PLANTED)
def test_what_is_planted_is_found(check, files, sentences, copy):
    before = check(copy)
    for path, text in files.items():
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(text, encoding="utf-8")
    found = [sentence for sentence in check(copy) if sentence not in before]
    assert len(found) == len(sentences), found
    for sentence in sentences:
        assert any(line.startswith(sentence) for line in found), (sentence, found)


ALLOWED = [
    (floor_plan.too_long, "def f():\n    class F:\n" + "        x = 1\n" * 80),  # made lazily
    (floor_plan.circles, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import x"),
    (floor_plan.private_names, "import torch\n\ntorch._C, torch.Size()._asdict()"),
    (floor_plan.imports_the_wrong_way, "from ..errors import ConfigError\nfrom . import kl\nfrom .. import rng"),
]


@pytest.mark.parametrize(("check", "text"), ALLOWED)
def test_what_is_allowed_is_not_found(check, text, copy):
    before = check(copy)
    (copy / "coevo_env/game/x.py").write_text(text, encoding="utf-8")
    assert check(copy) == before


def test_the_rule_is_that_of_the_page(copy):
    """Other lines, another rule: nothing of it is repeated in a test."""
    page = (copy / floor_plan.PAGE).read_text(encoding="utf-8")
    (copy / floor_plan.PAGE).write_text(page.replace(LINE, f"{LINE} hall"), encoding="utf-8")
    (wrong, table) = floor_plan.wrong_on_the_page(copy)
    assert wrong == (
        "docs/architecture.md has a room hall, and there is no coevo_env/hall/ and no coevo_env/hall.py: make it, or "
        "take it from the line of coevo_env."
    )
    assert "the table of coevo_env has the rows errors, rng, view, game, metrics" in table
    assert floor_plan.imports_the_wrong_way(copy) == []

    swapped = page.replace(LINE, "    coevo_env     game < errors rng view")
    (copy / floor_plan.PAGE).write_text(swapped, encoding="utf-8")
    found = floor_plan.imports_the_wrong_way(copy)
    assert any("imports coevo_env.errors: room game stands before errors" in sentence for sentence in found)
