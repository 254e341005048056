"""One file for one thing: what is added is one file, or one place in one file, one line in a
registry and one row in the docs, and whatever is forgotten is named by a failing test.

One idea: each thing is really added, to a copy of the tree, and the tests that run over the
registries are run there in another process. Nothing here knows what those tests try.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())


@dataclass(frozen=True)
class Edit:
    """A text that is written into a tree.

    Attributes:
        file: Where, from the root of the tree.
        text: What is inserted; the whole file where there is no `after`.
        after: Beginning of the line behind which it is inserted.
    """

    file: str
    text: str
    after: str | None = None

    def make(self, tree: Path) -> None:
        path = tree / self.file
        if self.after is None:
            assert not path.exists(), self.file
            path.write_text(self.text, encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (place,) = [i for i, line in enumerate(lines) if line.startswith(self.after)]
        path.write_text("".join([*lines[: place + 1], self.text, *lines[place + 1 :]]), encoding="utf-8")


@dataclass(frozen=True)
class Thing:
    """What is added, and the tests that know its registry.

    Attributes:
        name: Its name there.
        tests: File and words for `pytest -k`.
        edits: What it takes, by what a person would call it.
        forgotten: Edit that is left out or made otherwise -> what a failing test then says.
    """

    name: str
    tests: tuple[str, str]
    edits: dict[str, Edit]
    forgotten: dict[str, str] = field(default_factory=dict)
    otherwise: dict[str, Edit] = field(default_factory=dict)


TASK = '''"""Count on: "3" -> "4".

Version history: 1 (0.1.0).
"""

from __future__ import annotations

from ..game.reference import IntTokenizer
from ..game.task import Prompt, Task

__all__ = ["task"]


def task() -> Task:
    prompts = [Prompt(str(i), answer=str(i + 1)) for i in range(1, 9)]
    return Task(
        name="count",
        train=prompts[:6],
        test=prompts[6:],
        rewards={"next": lambda prompts, said: [float(text == p.answer) for p, text in zip(prompts, said)]},
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
        max_new_tokens=2,
        model="table",
        tokenizer=IntTokenizer(10),
        scripted=lambda prompt, seen: prompt.answer,
        description="Count on.",
    )
'''


def existing(file: str, beginning: str) -> str:
    """A line of the tree."""
    return next(
        line for line in (ROOT / file).read_text("utf-8").splitlines(keepends=True) if line.startswith(beginning)
    )


def still(text: str) -> str:
    """The learner that does not learn, under another name."""
    return text.replace("frozen", "still").replace("Frozen", "Still").replace("still=True", "frozen=True")


LEARNERS, TASKS = "agents/learners/learner.py", "coevo_env/tasks/__init__.py"
REGISTRIES = "test_registries.py"
THINGS = {
    "task": Thing(
        "count",
        ("test_builtin_tasks.py", "[count] or every_file"),
        {
            "file": Edit("coevo_env/tasks/count.py", TASK),
            "line": Edit(TASKS, '    "count": "coevo_env.tasks.count",\n', '    "toy": '),
        },
        {
            "line": "{'coevo_env.tasks.count'}: no line in BUILTIN_TASKS",
            "scripted policy": "the task 'count' has no scripted policy",
            "version history": "count.py has no version history",
        },
        {
            "scripted policy": Edit("coevo_env/tasks/count.py", re.sub(r"        scripted=.*\n", "", TASK)),
            "version history": Edit("coevo_env/tasks/count.py", re.sub(r"Version.*\n", "", TASK)),
        },
    ),
    "metric": Thing(
        "shortest",
        (REGISTRIES, "metric"),
        {
            "function": Edit(
                "coevo_env/metrics.py",
                '\n\ndef shortest(tokens):\n    """Ids of the shortest response; 0 if there are none."""\n'
                "    return float(min(map(len, tokens), default=0))\n",
                "    return sum(len(row) > 0 and row[-1] in",
            ),
            "line": Edit(
                "coevo_env/metrics.py", '    "shortest": lambda said: shortest(said.tokens),\n', '    "repeat": lambda'
            ),
            "page": Edit(
                "docs/metrics.md",
                "| `<agent>/eval/shortest` | tokens | length of the shortest response |\n",
                "| `<agent>/eval/repeat` |",
            ),
        },
        {"page": "the metric 'shortest' has no row `<agent>/eval/shortest` in docs/metrics.md"},
    ),
    "KL estimator": Thing(
        "k4",
        (REGISTRIES, "estimator or documented"),
        {
            "line": Edit("coevo_env/game/kl.py", '    "k4": k4,\n', '    "k3": k3,'),
            "function": Edit(
                "coevo_env/game/kl.py",
                '\n\ndef k4(difference):\n    """d - (1 - exp(-d)) / 2: a control variate at half its strength."""\n'
                "    return difference - 0.5 * (1.0 - np.exp(-difference))\n",
                "        return np.exp(-difference) - 1.0 + difference",
            ),
            "page": Edit(
                "docs/rewards_and_kl.md",
                '| `"k4"` | $d - (1 - e^{-d}) / 2$ | unbiased, may be negative | another fixed point |\n',
                '| `"k3"` |',
            ),
        },
        {
            "page": "the KL estimator 'k4' has no row in the table `kl.estimator` of docs/rewards_and_kl.md",
            "what it is": "'k4' misses the exact KL by up to",
        },
        {
            "what it is": Edit(
                "docs/rewards_and_kl.md",
                '| `"k4"` | $d - (1 - e^{-d}) / 2$ | biased | another fixed point |\n',
                '| `"k3"` |',
            )
        },
    ),
    "KL controller": Thing(
        "halving",
        (REGISTRIES, "controller or documented"),
        {
            "line": Edit("coevo_env/game/kl.py", '    "halving": Halving,\n', '    "dual": DualAscent,'),
            "class": Edit(
                "coevo_env/game/kl.py",
                '\n\nclass Halving(Fixed):\n    """Half of beta each time."""\n\n'
                "    def update(self, kl: float, episodes: int) -> None:\n        finite_kl(kl)\n"
                "        self.beta /= 2\n",
                "        self.beta = min(max(self.beta + self.rate",
            ),
            "page": Edit("docs/rewards_and_kl.md", '| `"halving"` | β ← β / 2 | `beta` |\n', '| `"fixed"` |'),
        },
        {"page": "the KL controller 'halving' has no row in the table `kl.controller` of docs/rewards_and_kl.md"},
    ),
    "role schedule": Thing(
        "odd",
        (REGISTRIES, "schedule or documented"),
        {
            "class": Edit(
                "coevo_env/game/roles.py",
                '\n\nclass Odd(Never):\n    """The order is reversed in odd episodes."""\n\n'
                "    def assignment(self, episode: int) -> tuple[int, ...]:\n"
                "        return self._seats[::-1] if episode % 2 else self._seats\n",
                "        return self._seats[::-1] if episode // self.every % 2",
            ),
            "line": Edit("coevo_env/game/roles.py", '    "odd": Odd,\n', '    "never": Never,'),
            "page": Edit("docs/role_exchange.md", '| `"odd"` | reversed in odd episodes | |\n', '| `"never"` |'),
        },
        {"page": "the role schedule 'odd' has no row in the table `roles` of docs/role_exchange.md"},
    ),
    "reward mixing": Thing(
        "altruistic",
        (REGISTRIES, "mixing or documented"),
        {
            "line": Edit("coevo_env/game/mixing.py", '    "altruistic": altruistic,\n', '    "own": own,'),
            "function": Edit(
                "coevo_env/game/mixing.py",
                '\n\ndef altruistic(num_agents, weight):\n    """The sum of the others\'."""\n'
                "    return np.ones((num_agents, num_agents)) - np.eye(num_agents)\n",
                "    return np.eye(num_agents)",
            ),
            "page": Edit(
                "docs/rewards_and_kl.md", '| `"altruistic"` | `[[0, 1], [1, 0]]` | the others\' |\n', '| `"own"` |'
            ),
        },
        {"page": "the reward mixing 'altruistic' has no row in the table `mixing` of docs/rewards_and_kl.md"},
    ),
    "learner": Thing(
        "still",
        (REGISTRIES, "learners"),
        {
            "file": Edit("agents/learners/still.py", still((ROOT / "agents/learners/frozen.py").read_text("utf-8"))),
            "line": Edit(LEARNERS, still(existing(LEARNERS, '    "frozen": ')), '    "frozen": '),
            "page": Edit("docs/learners.md", still(existing("docs/learners.md", "| `frozen` |")), "| `frozen` |"),
        },
        {"page": "the learner 'still' has no row in the first table of docs/learners.md"},
    ),
    "command": Thing(
        "hello",
        ("test_docs.py", "table_of_commands"),
        {
            "function": Edit(
                "agents/cli.py",
                '\n@app.command()\ndef hello() -> None:\n    """Says hello."""\n    console.print("hello")\n\n',
                "console = ",
            ),
            "page": Edit("README.md", "| `coevo hello` | says hello |\n", "| `coevo tasks`"),
        },
        {"page": "'hello'"},
    ),
}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of what the tests read."""
    for name in ("coevo_env", "agents", "docs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "packages").mkdir()
    for name, folder in (("coevo_env", "coevo_env"), ("coevo_agents", "agents")):
        (tmp_path / "packages" / name).symlink_to(tmp_path / folder, target_is_directory=True)
    return tmp_path


def run(tree: Path, things: Iterable[Thing], *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests of some things that are all in one file, in a tree."""
    files = {file for file, _ in (thing.tests for thing in things)}
    assert len(files) == 1
    path = next((tree / "tests").rglob(files.pop()))
    words = " or ".join(words for _, words in (thing.tests for thing in things))
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options, "-k", words, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(tree / "packages"), "COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, timeout=300, check=False)


@pytest.mark.parametrize("file", sorted({thing.tests[0] for thing in THINGS.values()}))
def test_with_everything_given_they_pass(tree, file):
    for thing in THINGS.values():
        for edit in thing.edits.values():
            edit.make(tree)
    tried = {kind: thing for kind, thing in THINGS.items() if thing.tests[0] == file}
    done = run(tree, tried.values())
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in set(tried) - {"learner", "command"}:  # whose tests have no name of their own for each
        name = THINGS[kind].name
        assert re.search(rf"\[(.*-)?{name}(-.*)?\] PASSED", done.stdout), f"no test has tried the {kind} {name!r}"


@pytest.mark.parametrize(
    ("kind", "what"), [pytest.param(kind, what) for kind, thing in THINGS.items() for what in thing.forgotten]
)
def test_what_is_forgotten_is_named(tree, kind, what):
    thing = THINGS[kind]
    if replaced := thing.otherwise.get(what):
        edits = [replaced if edit.file == replaced.file else edit for edit in thing.edits.values()]
    else:
        edits = [edit for name, edit in thing.edits.items() if name != what]
    for edit in edits:
        edit.make(tree)
    done = run(tree, [thing], "-x")
    assert done.returncode == 1, done.stdout + done.stderr
    failures = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    assert any(thing.forgotten[what] in line for line in failures), done.stdout


def plain(text: str) -> str:
    """The learner that is the smallest one that learns, under another name and with a metric of its
    own."""
    text = text.replace("reinforce", "plain").replace("Reinforce", "Plain").replace("REINFORCE", "PLAIN")
    return text.replace('metrics = {"return"', 'metrics = {"plainness": 1.0, "return"')


PLAIN = Thing(
    "plain",
    ("test_docs.py", "metrics_page"),
    {
        "file": Edit("agents/learners/plain.py", plain((ROOT / "agents/learners/reinforce.py").read_text("utf-8"))),
        "line": Edit(LEARNERS, plain(existing(LEARNERS, '    "reinforce": ')), '    "reinforce": '),
        "page": Edit("docs/metrics.md", "| `<agent>/plainness` | | 1 |\n", "| `<agent>/return`"),
    },
    {"page": "written by runs and not defined in docs/metrics.md: ['<agent>/plainness']"},
)


@pytest.mark.slow
@pytest.mark.parametrize("without", [None, "page"])
def test_a_learner_that_learns_is_asked_for_its_metrics(tree, without):
    for name, edit in PLAIN.edits.items():
        if name != without:
            edit.make(tree)
    assert "plainness" in (tree / "agents/learners/plain.py").read_text("utf-8")
    done = run(tree, [PLAIN], "-x")
    assert done.returncode == (1 if without else 0), done.stdout + done.stderr
    assert without is None or PLAIN.forgotten[without] in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["", " * 0.0"])
def test_a_learner_that_learns_is_asked_for_its_optimum(tree, rate):
    """Also of one that says that it learns and does not."""
    for edit in PLAIN.edits.values():
        edit.make(tree)
    file = tree / "agents/learners/plain.py"
    text = file.read_text("utf-8").replace("policy = -(seen", f"policy = -(1.0{rate} * seen", 1)
    file.write_text(text, encoding="utf-8")
    tests = Thing("plain", ("test_optimum.py", "two_agents_with_role_exchange and plain"), {})
    done = run(tree, [tests])
    assert done.returncode == (1 if rate else 0), done.stdout + done.stderr
    assert "1 failed" in done.stdout if rate else "1 passed" in done.stdout
