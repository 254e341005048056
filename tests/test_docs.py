"""README and docs are programs: their code runs, their commands exist, their links lead somewhere,
and their tables agree with the code.

How each kind of block is tried: every ```python block of a page runs, in order, in one namespace
and an empty directory; where a block says what it prints (`print(...)  # this`), that is compared;
a block whose first line is `# name.py` is also written to that file. A ```bash block is read line
by line: `coevo` and `python` commands run in the same directory, with the reductions of `REDUCED`;
the others are checked for what they name (Makefile targets, extras, programs).
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from coevo_agents.learners.learner import LEARNERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REDUCED = ["--iterations", "2", "--batch-size", "4", "--set", "eval_prompts=4"]
"""What every `coevo train` of the docs is shortened by; a preset or a command that needs assets or
the hub is only resolved."""


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if language is None:
                language, start, lines = line[3:].strip(), number + 1, []
            else:
                found.append(Block(page, start, language, "\n".join(lines) + "\n"))
                language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page}: a code block is not closed"
    return found


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty current directory, from which modules can be imported and forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


# ---------------------------------------------------------------- code
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_runs(page, workplace):
    namespace = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.language == "python":
            run_python(block, namespace, workplace)
        elif block.language == "bash":
            for command in commands(block):
                run_command(block, command)
        elif block.language == "toml":
            name = block.code.splitlines()[0].removeprefix("# ")
            assert name.endswith(".toml"), f"{block.where}: the first line of a suite names its file"
            (workplace / name).write_text(block.code)
        else:
            assert block.language == "bibtex", (
                f"{block.where}: a block of {block.language!r}, which nothing here can try"
            )


def run_python(block: Block, namespace: dict, folder: Path) -> None:
    if name := re.match(r"# (\w+\.py)\n", block.code):
        (folder / name[1]).write_text(block.code, encoding="utf-8")
        importlib.invalidate_caches()
    padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(padded, block.where, "exec", dont_inherit=True), namespace)
    if expected := re.findall(r"^ *print\(.*\)  # (.+)$", block.code, re.MULTILINE):
        assert printed.getvalue().splitlines() == expected, block.where


def commands(block: Block) -> list[list[str]]:
    return [
        shlex.split(line, comments=True)
        for line in block.code.replace("\\\n", " ").splitlines()
        if line.split("#")[0].strip()
    ]


def run_command(block: Block, words: list[str]) -> None:
    where = f"{block.where}: {shlex.join(words)}"
    program = words[0]
    if program == "coevo":
        assert run_coevo(reduced(words[1:])) == 0, where
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(words[1:]) <= targets, where
    elif program == "pip":
        extras = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
        for wanted in re.findall(r"\[([\w,-]+)\]", shlex.join(words)):
            assert set(wanted.split(",")) <= extras, where
        assert (ROOT / words[words.index("-c") + 1]).is_file(), where
    elif program == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), where  # test_fixed_points and test_api_page run them
    elif words[:3] == ["python", "-m", "pytest"]:
        assert importlib.util.find_spec("xdist" if "-n" in words else "pytest"), where
    elif program == "python" and words[1] == "-m":
        done = subprocess.run(
            [sys.executable, *words[1:3], "--help"], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
        )
        assert done.returncode == 0, f"{where}\n{done.stderr}"
    elif program == "tensorboard":
        assert shutil.which("tensorboard", path=str(Path(sys.executable).parent)), where
    else:
        assert words in (["python3", "-m", "venv", ".venv"], [".", ".venv/bin/activate"]), (
            f"{where}: nothing here knows how to try it"
        )


def reduced(words: list[str]) -> list[str]:
    command = words[0]
    if command == "assets":
        return [*words, "--help"]
    if command == "train" and "--preset" in words:
        return [*words, "--list-settings"]
    if command in ("compare", "sweep", "pareto") and "--dry-run" not in words:
        return [*words, "--dry-run"]
    return (
        [*words, *REDUCED]
        if command == "train" and "--resume" not in words and "--list-settings" not in words
        else words
    )


def run_coevo(words: list[str]) -> int:
    """The command in this process: torch is imported once for all of them."""
    from coevo_agents import cli

    arguments, sys.argv = sys.argv, ["coevo", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = arguments
    return 0


def test_the_table_of_commands_names_real_ones():
    from typer.main import get_command

    from coevo_agents.cli import app

    known = set(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`coevo (\w+)", text)) == known - {"version"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= targets


MODULES = sorted(
    module.name
    for package in ("coevo_env", "coevo_agents")
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["coevo_env", *MODULES])
def test_docstrings_run(name, workplace):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


# ---------------------------------------------------------------- links
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(aim), f"{page.name}: {target}"


def test_every_page_is_listed_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.parent.name == "docs" and f"(docs/{page.name})" not in text] == []


def test_files_that_are_spoken_of_exist():
    code = [file for folder in ("coevo_env", "agents") for file in (ROOT / folder).rglob("*.py")]
    for file in [*code, *PAGES, ROOT / "SECURITY.md", ROOT / "pyproject.toml"]:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:docs|tests|agents|coevo_env)/[\w/-]+\.(?:md|py)\b", text):
            assert (ROOT / name).is_file() or "NAME" in name, f"{file.relative_to(ROOT)} speaks of {name}"


# ---------------------------------------------------------------- tables
def table_tags(page: Path) -> set[str]:
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {tag for row in rows for tag in re.findall(r"`([^`]+)`", row.split("|")[1])}


VARIETY: list[dict] = [
    *({"learner": name} for name in LEARNERS),
    {"learner": "reinforce", "elastic.every": 1},
    {"learner": "rloo", "updates": "sequential"},
    {"population.capacity": 2, "population.every": 1, "population.share": 0.0, "communication": True},
    {"ppo.ratio_threshold": 10.0, "count_flops": True},
]
"""Runs that together write every tag."""


def test_metrics_page_defines_every_tag_and_no_other(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from coevo_agents.runs.config import Config
    from coevo_agents.runs.settings import apply
    from coevo_agents.training.loop import Run

    base = {"iterations": 2, "batch_size": 4, "eval_prompts": 4, "eval_every": 1, "kl.mode": "loss", "group_size": 2}
    base["audit.responses"] = 4
    tags: set[str] = set()
    for number, options in enumerate(VARIETY):
        folder = tmp_path / ("run" if number == 0 else str(number))
        Run(apply(Config(), {**base, **options}), folder).train()
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        written = {tag for row in rows for tag in row}
        assert set(events.Tags()["scalars"]) == written - {"iteration"}
        tags |= written | set(events.Tags()["histograms"])
        tags |= {re.sub(r"/\d+(/text_summary)?$", "/<n>", tag) for tag in events.Tags()["tensors"] if "/" in tag}
    for name, sign in (
        (r"reward/sentiment$", "reward/<term>"),
        (r"(^|/)llm\d+\b", r"\1<agent>"),
        (r"/seat\d+/", "/seat<k>/"),
    ):
        tags = {re.sub(name, sign, tag) for tag in tags}
    wanted = tags

    page = ROOT / "docs" / "metrics.md"
    text = page.read_text(encoding="utf-8")
    start = text.index("## In the run folder")
    files = set(re.findall(r"^\| `([^`]+)`", text[start:], re.MULTILINE))
    defined = table_tags(page) - files
    assert not wanted - defined, f"written by runs and not defined in docs/metrics.md: {sorted(wanted - defined)}"
    assert not defined - wanted, f"defined in docs/metrics.md and written by no run: {sorted(defined - wanted)}"
    for name in files - {"report.html"}:
        assert (tmp_path / "run" / name.replace("000012", "000002")).exists(), name


def test_infos_page_names_every_key():
    import coevo_env

    env = coevo_env.env(task="toy", seed=0)
    env.reset()
    keys = {re.sub(r"^reward/.*", "reward/<term>", key) for key in env.unwrapped.infos["llm1"]}
    text = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    table = text[text.index("| key | unit") : text.index("There is no text in infos")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`([^`]+)`", row)} == keys


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fixed_points():
    text = (ROOT / "docs" / "rewards_and_kl.md").read_text(encoding="utf-8")
    lines = text.split("<!-- fixed points -->\n")[1].split("\n\n")[0].splitlines()[2:]
    page = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = script("fixed_points").rows()
    assert [row[0] for row in page] == [row[0] for row in rows]
    for (name, *printed), (_, *numbers) in zip(page, rows, strict=True):
        assert [float(cell) for cell in printed] == pytest.approx(numbers, abs=1e-3), name


def test_api_page_lists_the_public_names():
    api = script("api")
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(api.MODULES)
    for module, section in sections.items():
        names = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
        assert [name for name, _ in names] == api.names(module), f"{module}: run `python docs/scripts/api.py`"
        assert all(words for _, words in names), module
    import coevo_env

    assert all(hasattr(coevo_env, name) for name in coevo_env.__all__)


def test_public_methods_say_what_they_do():
    from coevo_env.game import reference, task
    from coevo_env.lm import model as lm
    from coevo_env.lm import tokenizer

    kinds = [
        lm.LanguageModel,
        reference.Cursor,
        reference.IntTokenizer,
        reference.ReferencePolicy,
        reference.TableModel,
    ]
    for kind in (*kinds, task.Tokenizer, tokenizer.TextTokenizer):
        for name, member in vars(kind).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, (property, classmethod))):
                assert member.__doc__, f"{kind.__name__}.{name} has no docstring"


def test_dependencies_page_gives_a_reason_for_each():
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    named = set(re.findall(r'"([\w-]+)>=', table))
    assert named <= set(re.findall(r"`([\w-]+)`", text))
    assert "torch" in named and "pyarrow" in named


def test_presets_of_the_docs_exist():
    from coevo_agents.runs.presets import PRESETS

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"--preset ([\w-]+)", text)) == set(PRESETS) - {"default"}


def test_settings_named_in_tables_exist():
    from coevo_agents.runs.settings import names

    text = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
    table = text[text.index("| question | settings |") :].split("\n\n")[0]
    used = set(re.findall(r"(?:`| )([a-z_.]+)=", table))
    assert used and used <= set(names())
