"""What is shown of a run folder, in the terminal and as a page, in whatever state the run left
it."""

import io
import json
import re
from itertools import pairwise

import pytest
from rich.console import Console

from coevo_agents.pages.charts import braille, svg, thin, ticks
from coevo_agents.pages.progress import progress
from coevo_agents.pages.report import page
from coevo_agents.pages.tables import summary_table
from coevo_agents.pages.terminal import play, terminal
from coevo_agents.runs.config import Config
from coevo_agents.runs.record import read_record
from coevo_agents.runs.settings import to_dict
from coevo_env.errors import ConfigError

EVIL = "<script>alert('x')</script>"


def metrics(iteration, agents=("llm1", "llm2"), evaluate=False):
    row = {"iteration": iteration, "time/rollout_s": 0.5}
    for i, name in enumerate(agents):
        if iteration:
            seat = float((iteration - 1) // 5 % 2 != i)
            row |= {
                f"{name}/reward/task": 0.01 * iteration + i,
                f"{name}/kl": 0.1 * iteration,
                f"{name}/entropy": 2.0,
                f"{name}/seat": seat,
            }
            row |= {
                f"{name}/kl_coef": 0.05,
                f"{name}/distinct_2": 0.5,
                f"{name}/length": 6.0,
                f"{name}/loss/policy": -0.1,
            }
        if evaluate:
            row |= {
                f"{name}/eval/reward": 0.125 + 0.01 * iteration,
                f"{name}/eval/kl": 0.1 * iteration,
                f"{name}/eval/distinct_2": 0.5,
            }
    return row


def transcript(iteration, text="so good"):
    turns = [
        {
            "seat": seat,
            "role": role,
            "agent": agent,
            "text": text,
            "context": "a",
            "cut": False,
            "tokens": [1, 2],
            "pieces": ["so", " good"],
        }
        | {"kl": [0.5, -0.5], "shaping": [-0.1, 0.1], "task_reward": 0.5, "team_reward": 1.0, "terms": {"mood": 0.5}}
        for seat, (role, agent) in enumerate((("pioneer", "llm1"), ("observer", "llm2")))
    ]
    return {
        "iteration": iteration,
        "episode": 7,
        "task": "sentiment",
        "split": "train",
        "prompt_index": 1,
        "prompt": "a day",
        "turns": turns,
    }


def summary():
    change = {
        "before": {"reward": 0.125, "kl": 0.0, "distinct_2": 0.75, "length": 9.0},
        "after": {"reward": 0.625, "kl": 4.0, "distinct_2": 0.5},
    }
    samples = [{"prompt": "a day was", "before": "fine", "after": EVIL, "reward": [0.2, 0.9]}]
    return {
        "iterations": 12,
        "task": "sentiment",
        "agents": {name: {**change, "samples": samples} for name in ("llm1", "llm2")},
    }


@pytest.fixture
def run(tmp_path):
    """A finished run of 12 iterations, evaluated every 4."""
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"config": to_dict(Config(iterations=12)), "provenance": {"git_commit": "abc123"}})
    )
    lines(folder / "metrics.jsonl", [metrics(i, evaluate=i % 4 == 0) for i in range(13)])
    lines(folder / "transcripts.jsonl", [transcript(i, EVIL if i == 12 else "so good") for i in (4, 8, 12)])
    (folder / "summary.json").write_text(json.dumps(summary()))
    return folder


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shown(folder, width=110):
    stream = io.StringIO()
    terminal(folder, Console(file=stream, width=width))
    return stream.getvalue()


def written(folder):
    return page(folder).read_text(encoding="utf-8")


# ---------------------------------------------------------------- a finished run
def test_the_terminal_shows_summary_curves_and_episodes(run):
    text = shown(run)
    for part in (
        "12 of 12 iterations",
        "0.125 → 0.625",
        "Task reward",
        "KL coefficient",
        "2 role exchanges",
        "llm2 (observer)",
        "1.120",
    ):
        assert part in text
    assert any(0x2800 < ord(c) <= 0x28FF for c in text)
    assert "unfinished" not in text
    assert max(map(len, shown(run, 50).split("\n")[1:])) <= 50  # the path is on a line of its own, to be copied


def test_the_page_shows_everything_and_fetches_nothing(run):
    text = written(run)
    for part in (
        "my run",
        "12 of 12 iterations",
        "0.625",
        "Task reward",
        "a day was",
        "kl.beta",
        "abc123",
        "<svg",
        "loss/policy",
        "is not the pioneer",
    ):
        assert part in text
    assert EVIL not in text
    assert text.count("<script") == 1
    assert not re.search(r"""https?:|(src|href)=|@import|url\(""", text)


def test_the_page_goes_where_it_is_told(run, tmp_path):
    assert page(run) == run / "report.html"
    assert page(run, tmp_path / "there.html") == tmp_path / "there.html"
    with pytest.raises(ConfigError, match="could not be written"):
        page(run, tmp_path / "no" / "such" / "folder.html")


def test_exchanges_are_the_stretches_of_the_first_agent(run):
    assert read_record(run).exchanges() == [(1.0, 5.0, 0.0), (6.0, 10.0, 1.0), (11.0, 12.0, 0.0)]


# ---------------------------------------------------------------- other states
def test_an_unfinished_run_compares_its_first_and_latest_evaluation(run):
    (run / "summary.json").unlink()
    lines(run / "metrics.jsonl", [metrics(i, evaluate=i % 4 == 0) for i in range(10)])
    assert "9 of 12 iterations, unfinished" in shown(run)
    assert "0.125 → 0.205" in shown(run)
    assert "the run has not finished" in written(run)


def test_a_line_cut_short_is_left_out_and_said(run):
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"iteration": 13, "llm1/rew')
    record = read_record(run)
    assert record.iteration == 12
    assert "1 line of metrics.jsonl was cut short" in record.notes[0]
    assert "cut short" in " ".join(shown(run).split())
    assert "cut short" in written(run)


def test_numbers_that_are_none_are_left_out(run):
    rows = [metrics(i) for i in range(13)]
    rows[3]["llm1/kl"], rows[4]["llm2/entropy"], rows[5]["llm1/reward/task"] = float("nan"), float("inf"), None
    lines(run / "metrics.jsonl", rows)
    assert len(read_record(run).series("llm1/kl")[0]) == 11
    assert "Task reward" in shown(run)
    assert not re.search(r"\bnan\b|\bNaN\b|\binf\b|Infinity[,\]]", written(run).split("<script>")[0])


def test_an_iteration_that_was_written_twice_counts_once(run):
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({**metrics(7), "llm1/kl": 99.0}) + "\n")
    record = read_record(run)
    assert record.series("llm1/kl")[0] == list(range(1, 13))
    assert record.series("llm1/kl")[1][6] == 99.0


@pytest.mark.parametrize("name", ["metrics.jsonl", "transcripts.jsonl", "summary.json", "config.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", '"text"\n3\n', "\x00\xff"])
def test_any_file_may_be_missing_or_broken(run, name, content):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    assert "my run" in written(run)
    shown(run)


def test_a_run_that_has_only_just_begun(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": to_dict(Config())}))
    assert "No iteration has been written yet" in shown(tmp_path)
    assert "No iteration" in written(tmp_path)


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        shown(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        page(tmp_path / "missing")


@pytest.mark.parametrize("count", [1, 3, 11])
def test_any_number_of_agents(run, count):
    names = [f"llm{i + 1}" for i in range(count)]
    lines(run / "metrics.jsonl", [metrics(i, names, evaluate=True) for i in range(3)])
    (run / "summary.json").unlink()
    assert read_record(run).agents == names
    assert names[-1] in shown(run)
    assert names[-1] in written(run)


def test_a_long_run_stays_small(run):
    lines(run / "metrics.jsonl", [metrics(i) for i in range(3000)])
    assert len(written(run)) < 1_500_000


# ---------------------------------------------------------------- while training and after
def test_progress_reports_and_the_summary_is_a_table():
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    with progress(console, Config(iterations=3)) as report:
        for i in range(4):
            report(i, metrics(i, evaluate=i % 3 == 0))
    console.print(summary_table(summary()))
    text = stream.getvalue()
    assert "iteration 0 of 3: validation reward" in text
    assert "+0.155 (KL 0.30)" in text
    assert "0.125 → 0.625" in text
    assert EVIL in text


def test_play_answers_typed_prompts_until_an_empty_line(monkeypatch):
    typed = iter(["the soup was", "", "never read"])
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    monkeypatch.setattr(console, "input", lambda text: next(typed))
    play(console, Config(), ["embedded"])
    text = stream.getvalue()
    assert "the soup was" in text
    assert "llm1 (pioneer)" in text
    assert "llm2 (observer)" in text
    assert "log-prob" in text
    assert next(typed) == "never read"


# ---------------------------------------------------------------- charts
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3e-5, 2e-5), (120, 99000), (0.13, 0.87), (-7, -6.2)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low <= found[0] < found[-1] <= high
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1.0}


def test_svg_scales_points_into_the_box():
    chart = svg({"a": ([0, 10], [0.0, 1.0])}, {"a": ([5], [0.5])}, (0, 10), [(2, 4), (11, 12)])
    box = chart["box"]
    (_, path, _), (_, _, [(x, y)]) = chart["lines"][0], chart["marked"][0]
    assert path.startswith(f"M{float(box['left'])} ")
    assert x == pytest.approx((box["left"] + box["right"]) / 2)
    assert y == pytest.approx((box["top"] + box["bottom"]) / 2)
    assert len(chart["bands"]) == 1
    assert [row[0] for row in chart["hover"]] == [0, 5, 10]


def test_svg_of_nothing_of_one_point_and_of_a_constant():
    assert svg({"a": ([], [])}, {}, (0, 1)) is None
    assert svg({"a": ([3], [2.0])}, {}, (3, 3))["lines"][0][2] is True
    assert svg({"a": ([0, 1], [0.0, 0.0])}, {}, (0, 1))["y_ticks"]


def test_thinning_takes_means_of_neighbours():
    xs, ys = thin((list(range(8)), [0, 2, 4, 6, 8, 10, 12, 14]), 4)
    assert xs == [0.5, 2.5, 4.5, 6.5]
    assert ys == [1, 5, 9, 13]


def test_braille_draws_the_corners():
    rows = braille({"a": ([0, 1], [0.0, 1.0])}, width=2, height=1)
    assert rows == [[("⡠", "a"), ("⠊", "a")]]  # four columns, four rows: bottom left to top right
    assert braille({}, 3, 2) == [[(" ", None)] * 3] * 2
    assert braille({"a": ([5], [1.0])}, 1, 1)[0][0][1] == "a"
