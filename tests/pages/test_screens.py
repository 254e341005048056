"""Every command on every screen: encodings that lack characters, narrow and wide, with and without
a terminal and its colours. Nothing may end in a traceback, and no line be broken by the screen."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
import runs
from rich.console import Console
from rich.text import Text

from coevo_agents import cli
from coevo_agents.pages.console import COLORS, HANDLER, paints, writes
from coevo_agents.pages.progress import progress
from coevo_agents.runs.config import Config
from coevo_env.view.render import style

LOSING = """
from dataclasses import replace
from coevo_env.tasks import toy

def task():
    return replace(toy.task(), rewards={"cost": lambda prompts, responses: [-1.0 - len(r) / 7 for r in responses]})
"""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ENCODINGS = ("utf-8", "cp1252", "ascii")
WIDTHS = (40, 80, 200)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, and a run of it whose rewards are negative."""
    folder = tmp_path_factory.mktemp("screens")
    (folder / "losing.py").write_text(LOSING)
    runs.save_tiny(folder / "tiny")
    done = runs.coevo(*words(), "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def words() -> list[str]:
    return ["train", "--task", "losing:task", "--model", "tiny", "--iterations", "2", "--batch-size", "2"]


@pytest.fixture
def screen(place, monkeypatch, tmp_path):
    """Calls the command on a stream of an encoding and width; returns what was written, decoded."""
    monkeypatch.chdir(place)

    def call(*arguments: object, encoding: str = "utf-8", width: int = 80, typed: bytes = b"") -> str:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["coevo", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        # a console reads COLUMNS when it is made, which is when the command starts
        monkeypatch.setattr(cli, "console", Console())
        monkeypatch.setattr(cli, "errors", Console(stderr=True))
        with pytest.raises(SystemExit) as left:
            cli.main()
        text = raw.getvalue().decode(encoding)
        assert not left.value.code, text
        return text

    return call


COMMANDS = {
    "show": ["show", "run"],
    "eval": ["eval", "run", "--task", "losing:task"],
    "json": ["eval", "run", "--task", "losing:task", "--json"],
    "play": ["play", "run", "--task", "losing:task", "--prompt", "2"],
    "help": ["train", "--help"],
    "version": ["--version"],
}
FREE = r"/|RUN|coevo |^coevo"
"""Lines with paths and commands, which are not broken so that they can be copied."""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_on_every_screen(name, encoding, screen):
    for width in WIDTHS:
        text = screen(*COMMANDS[name], encoding=encoding, width=width)
        assert text.strip() and "Traceback" not in text
        if name == "json":
            assert json.loads(text)["models"]["llm1"]["reward"] < -1
        elif name != "help":  # typer's own
            long = [line for line in text.splitlines() if len(line) > width and not re.search(FREE, line)]
            assert not long, (width, long)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_run_with_negative_rewards_on_every_screen(encoding, screen, tmp_path):
    for width in WIDTHS:
        text = screen(*words(), "--out", tmp_path / str(width), encoding=encoding, width=width)
        minus = "−" if encoding == "utf-8" else "-"
        assert f"{minus}1." in text and f"Run folder: {tmp_path / str(width)}" in text


def test_the_installed_command_writes_ascii_where_asked(place):
    for encoding in ("ascii", "cp1252"):
        environment = {**runs.ENVIRONMENT, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
        done = runs.subprocess.run(
            [runs.COEVO, *words(), "--out", f"by-{encoding}"], cwd=place, env=environment, capture_output=True
        )
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        assert "-1." in done.stdout.decode(encoding)


def test_what_cannot_be_written_is_the_nearest_that_can():
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert writes(console, "a −1 → 2 ± 3 · β ⏎ ⣿ é") == "a -1 -> 2 +/- 3 | beta \\n * ?"
    assert "−".encode("cp1252", HANDLER) == b"-" and "é".encode("cp1252", HANDLER) == b"\xe9"


def test_input_that_is_no_text_is_answered(screen):
    text = screen("play", "run", "--task", "losing:task", typed=b"\xff 2\n2\n")
    assert "is not made of ids" in text and "prompt" in text


# ---------------------------------------------------------------- progress
def frames(width: int, agents: int, total: int = 120, terminal: bool = True) -> list[str]:
    """The lines that a progress bar draws, without control sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal)
    names = [f"llm{i + 1}" for i in range(agents)]
    values = {"reward/task": -0.25, "kl": 1.5, "entropy": 2.0, "eval/reward": -0.5, "eval/kl": 1.25}
    with progress(console, Config(num_agents=agents, iterations=total, roles="never")) as report:
        for i in range(total + 1):
            tags = [tag for tag in values if i == total or not tag.startswith("eval/")]
            report(i, {f"{name}/{tag}": values[tag] for name in names for tag in tags})
    return [ESCAPE.sub("", line) for line in re.split(r"[\r\n]+", stream.getvalue())]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("agents", [1, 2, 5])
def test_count_and_time_left_are_always_there(width, agents):
    lines = frames(width, agents)
    last = [line for line in lines if "120/120" in line][-1]
    assert re.search(r"120/120 \d+:\d\d:\d\d", last)
    assert max(map(len, lines)) <= width
    shown = "llm1 reward −0.25 kl 1.50 entropy 2.00  llm2 reward" if agents == 2 and width == 200 else ""
    assert shown in last


def test_metrics_make_room_before_anything_else():
    last = {w: [line for line in frames(w, 2) if "120/120" in line][-1] for w in (200, 80, 60, 40)}
    assert "entropy 2.00" in last[200] and "entropy" not in last[80]
    assert "llm1 −0.25 kl 1.50  llm2 −0.25 kl 1.50" in last[80]
    assert "llm1 −0.25  llm2 −0.25" in last[60] and "kl" not in last[60] and "llm1" not in last[40]


def test_without_a_terminal_each_evaluation_is_a_line_with_count_and_time():
    text = " ".join(frames(80, 2, total=3, terminal=False))
    assert re.search(r"iteration 3 of 3, 0:00:\d\d left: validation reward +llm1 −0.500 \(KL 1.25\)", text)


# ---------------------------------------------------------------- colours
def luminance(code: str) -> float:
    parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("color", COLORS)
def test_agents_can_be_read_on_light_and_dark(color):
    assert 1.05 / (luminance(color) + 0.05) >= 3.5 and (luminance(color) + 0.05) / 0.05 >= 3.5


def test_an_agent_has_one_hue_on_every_page():
    """In the terminal, on light and on dark pages: the same order of hues, within 20 degrees."""
    import colorsys

    def hue(code: str) -> float:
        return 360 * colorsys.rgb_to_hls(*(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]

    for block in style().split(":root {")[1:3]:
        page = [re.search(rf"--a{i}: (#\w+)", block)[1] for i in range(len(COLORS))]
        for ours, theirs in zip(COLORS, page, strict=True):
            apart = abs(hue(ours) - hue(theirs)) % 360
            assert min(apart, 360 - apart) <= 20, (ours, theirs)


def test_no_color_is_obeyed(monkeypatch):
    def shown(color: str) -> str:  # rich keeps what a style looked like
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, color_system="truecolor", width=80)
        console.print(Text("llm1", color))
        return stream.getvalue() + str(paints(console))

    assert "38;2;" in shown("#123456") and "True" in shown("#123457")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "38;2;" not in shown("#123458") and "False" in shown("#123459")


# ---------------------------------------------------------------- the first line
def test_the_first_line_is_there_before_torch():
    code = (
        "import sys, coevo_agents.cli as cli\n"
        "say = cli._say\n"
        "def first(line):\n"
        "    say(line); print('torch' in sys.modules); raise SystemExit\n"
        "cli._say = first\n"
        "sys.argv = ['coevo', 'train']\n"
        "cli.main()\n"
    )
    done = runs.subprocess.run([sys.executable, "-c", code], env=runs.ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("coevo ") and done.stdout.splitlines()[1] == "False", done.stderr
