"""Suites carried out on the toy: matched, tuned, stopped in the middle, and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from coevo_agents.launch.executor import Job, Outcome, check_jobs
from coevo_agents.referee import command
from coevo_agents.referee.conduct import conduct, rows_of
from coevo_agents.referee.rows import read_rows
from coevo_agents.referee.suite import TUNING_SEEDS, make_suite
from coevo_agents.training.loop import Run
from coevo_env.errors import CoevoError, ConfigError

TOY: dict[str, Any] = {
    "claim": "two are better than one",
    "seeds": 2,
    "settings": {
        "task": "toy",
        "iterations": 3,
        "batch_size": 4,
        "eval_prompts": 2,
        "eval_draws": 2,
        "eval_every": 1,
        "ppo.epochs": 1,
    },
    "arms": {"cory": {}, "ppo": {"num_agents": 1}},
    "claims": [{"better": "cory", "than": "ppo", "measure": "J", "margin": 0.1}],
}


def here(jobs, workers=1, report=lambda outcome: None, fail=(), stop=None):
    """As `run_all`, in this process; jobs named in `fail` fail, and one named `stop` stops all."""
    check_jobs(jobs)
    found = []
    for job in jobs:
        if job.name == stop:
            raise KeyboardInterrupt
        error, seconds = None, 0.0
        if job.name in fail:
            error = "ended with status 1"
        elif not (job.folder / "summary.json").exists():
            try:
                Run(job.config, job.folder, resume=(job.folder / "config.json").exists()).train()
                seconds = 1.0
            except CoevoError as problem:
                error = str(problem)
        found.append(Outcome(job, error, seconds))
        report(found[-1])
    return found


def text(out: Path) -> str:
    """The rows of a folder without what a clock measured."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["measures"] = {k: v for k, v in row["measures"].items() if "cpu" not in k and not k.startswith("wall")}
    return json.dumps(rows)


def test_a_suite_becomes_rows_and_is_not_run_twice(tmp_path):
    said: list[tuple[Job, int, int]] = []
    suite = make_suite(TOY, "s")
    done = conduct(suite, tmp_path, report=lambda outcome, n, total: said.append((outcome.job, n, total)), run=here)
    assert [row.key for row in done.rows] == [(arm, "toy", seed) for arm in ("cory", "ppo") for seed in (0, 1)]
    assert [(n, total) for _, n, total in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(
        row.measures["J"] == pytest.approx(row.measures["reward"] - 0.2 * row.measures["kl"]) for row in done.rows
    )
    assert read_rows(tmp_path / "rows.jsonl") == done.rows
    again = conduct(suite, tmp_path, run=lambda jobs, workers, report: here(jobs, workers, report))
    assert again.rows == done.rows and not again.notes


def test_a_suite_that_was_stopped_goes_on_and_is_the_same(tmp_path):
    suite = make_suite(TOY, "s")
    conduct(suite, tmp_path / "whole", run=here)
    with pytest.raises(KeyboardInterrupt):
        conduct(suite, tmp_path / "parts", run=lambda *given: here(*given, stop="toy/ppo/0"))
    conduct(suite, tmp_path / "parts", run=here)
    assert text(tmp_path / "whole") == text(tmp_path / "parts")


def test_a_suite_that_changes_after_its_first_run_says_so(tmp_path):
    conduct(make_suite(TOY, "s"), tmp_path, run=here)
    other = {**TOY, "claims": [{"better": "ppo", "than": "cory", "measure": "J", "margin": 0.1}]}
    done = conduct(make_suite(other, "s"), tmp_path, run=here)
    assert "THE SUITE WAS CHANGED" in done.notes[0] and "better='cory'" in done.notes[0]


def test_a_folder_of_another_suite_is_not_taken(tmp_path):
    conduct(make_suite(TOY, "s"), tmp_path, run=here)
    other = {**TOY, "settings": {**TOY["settings"], "batch_size": 8}}
    with pytest.raises(ConfigError, match="already holds another run"):
        conduct(make_suite(other, "s"), tmp_path, run=here)


@pytest.mark.parametrize(
    "by", ["generated", "episodes", *(pytest.param(by, marks=pytest.mark.slow) for by in ("tokens", "flops"))]
)
def test_arms_are_matched_seed_by_seed(by, tmp_path):
    given = {**TOY, "match": {"by": by}, "settings": {**TOY["settings"], "iterations": 6}}
    rows = conduct(make_suite(given, "s"), tmp_path, run=here).rows
    spent = {row.key[::2]: row.measures[f"spent/{by}"] for row in rows}
    for seed in (0, 1):
        assert spent["ppo", seed] == pytest.approx(spent["cory", seed], rel=0.12)
    runs = {row.key[::2]: row.iterations for row in rows}
    assert runs["cory", 0] == 6
    if by == "episodes":
        assert runs["ppo", 0] == 6
    else:  # one agent costs half as much or less, as nobody reads what the other wrote
        assert runs["ppo", 0] >= 11


def test_a_fixed_amount_ends_all_arms(tmp_path):
    given = {**TOY, "match": {"by": "episodes", "amount": 20}}
    assert {row.iterations for row in conduct(make_suite(given, "s"), tmp_path, run=here).rows} == {5}


def test_tuning_is_equal_on_its_own_seeds_and_reads_no_test_split(tmp_path):
    given = {**TOY, "tuning": {"seeds": 2, "grid": {"ppo.learning_rate": [1e-6, 3e-2]}}}
    suite = make_suite(given, "s")
    done = conduct(suite, tmp_path, run=here)
    assert len(done.trials) == 2 * 2 * 2
    assert {row.seed for row in done.trials} == {TUNING_SEEDS, TUNING_SEEDS + 1}
    assert {row.measured["split"] for row in done.trials} == {"validation"}
    assert {row.measured["split"] for row in done.rows} == {"test"}
    for arm in ("cory", "ppo"):
        means = {}
        for row in done.trials:
            if row.arm.startswith(arm):
                means.setdefault(row.chosen["ppo.learning_rate"], []).append(row.measures["J"])
        best = max(means, key=lambda rate: sum(means[rate]))
        chosen = {row.chosen["ppo.learning_rate"] for row in done.rows if row.arm == arm}
        assert chosen == {best}
        used = {row.settings["learner_settings"]["learning_rate"] for row in done.rows if row.arm == arm}
        assert used == {best}


def test_a_run_that_fails_is_a_row(tmp_path):
    done = conduct(make_suite(TOY, "s"), tmp_path, run=lambda *given: here(*given, fail=("toy/cory/1",)))
    assert [row.error for row in done.rows] == [None, "ended with status 1", None, None]
    matched = {**TOY, "match": {"by": "tokens"}}
    done = conduct(make_suite(matched, "s"), tmp_path / "m", run=lambda *given: here(*given, fail=("toy/cory/1",)))
    assert done.rows[3].error == "the run of cory whose cost it was to have failed"


def test_folders_of_any_origin_are_told_apart_by_what_differs(tmp_path):
    suite = make_suite(TOY, "s")
    conduct(suite, tmp_path / "one", run=here)
    folders = []
    for arm in ("cory", "ppo"):
        for seed in (0, 1):
            elsewhere = tmp_path / f"from-elsewhere-{arm}-{seed}"
            shutil.copytree(tmp_path / "one" / "runs" / "toy" / arm / str(seed), elsewhere)
            folders.append(elsewhere)
    rows, _ = rows_of(folders)
    assert [(row.arm, row.seed) for row in rows] == [
        *(("num_agents=2", seed) for seed in (0, 1)),
        *(("num_agents=1", seed) for seed in (0, 1)),
    ]
    found = command.compare(folders)
    assert not found.judgement.stated and found.judgement.judged[0].difference is not None
    assert (
        found.probes["toy"]["best word repeated (0)"] >= 0 if "best word repeated (0)" in found.probes["toy"] else True
    )
    with pytest.raises(ConfigError, match="two rows are of arm"):
        command.compare([*folders, folders[0]])


def test_an_unfinished_run_is_told_to_go_on(tmp_path):
    suite = make_suite(TOY, "s")
    conduct(suite, tmp_path, run=here)
    folder = tmp_path / "runs" / "toy" / "cory" / "0"
    (folder / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"unfinished.*--resume"):
        command.compare([folder])


def test_rows_that_were_kept_say_the_same_as_the_runs(tmp_path):
    path = tmp_path / "pack" / "s.toml"
    path.parent.mkdir()
    path.write_text(
        'claim = "c"\nseeds = 2\n[settings]\ntask = "toy"\niterations = 2\nbatch_size = 4\neval_prompts = 2\n'
        '[arms.x]\n[arms.y]\nnum_agents = 1\n[[claims]]\nbetter = "x"\nthan = "y"\nmargin = 0.1\n'
    )
    ran = command.compare([path], out=tmp_path / "out", run=here)
    shutil.copy(tmp_path / "out" / "rows.jsonl", path.with_name("s.rows.jsonl"))
    shutil.copy(tmp_path / "out" / "probes.json", path.with_name("s.probes.json"))
    kept = command.compare([path.with_name("s.rows.jsonl")])
    assert kept.suite == ran.suite and kept.probes == ran.probes
    for one, other in zip(ran.judgement.judged, kept.judgement.judged, strict=True):
        assert one.verdict == other.verdict and one.difference is not None and other.difference is not None
        assert one.difference.mean == other.difference.mean


def test_a_sweep_is_a_suite():
    suite = command.sweep(["kl.beta=0.1,0.2", "task=toy", "ppo.epochs=1,2"], seeds=3)
    assert [arm.name for arm in suite.arms] == [
        f"kl.beta={beta}, ppo.epochs={epochs}" for beta in ("0.1", "0.2") for epochs in (1, 2)
    ]
    assert suite.config(suite.arms[3], "toy", 1).kl.beta == 0.2
    for given, message in (
        (["kl.beta=0.1"], "nothing to sweep"),
        (["kl.beat=0.1,0.2"], "Did you mean 'kl.beta'"),
        (["kl.beta"], "expected NAME=VALUE"),
        (["kl.beta=1,2", "kl.beta=3"], "given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.sweep(given, seeds=3)


def test_what_is_no_suite_is_told(tmp_path):
    for given, message in (
        ([], "nothing to compare"),
        ([tmp_path / "no.toml"], "could not be read"),
        ([tmp_path / "no.jsonl"], "could not be read"),
        ([tmp_path], "holds no run"),
        ([tmp_path / "a.toml", tmp_path / "b"], "not several kinds at once"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.compare(given)


def test_optuna_proposes_as_many_for_every_arm_and_the_same_again(tmp_path):
    pytest.importorskip("optuna")
    given = {
        **TOY,
        "seeds": 1,
        "tuning": {"seeds": 1, "trials": 3, "sampler": "optuna", "grid": {"ppo.learning_rate": [1e-4, 1e-1]}},
    }
    suite = make_suite(given, "s")
    done = conduct(suite, tmp_path, run=here)
    assert len(done.trials) == 2 * 3
    rates = [row.chosen["ppo.learning_rate"] for row in done.trials if row.arm.startswith("cory")]
    assert len(set(rates)) == 3 and all(1e-4 <= rate <= 1e-1 for rate in rates)
    again = conduct(suite, tmp_path, run=lambda jobs, workers, report: here(jobs, workers, report))
    assert again.trials == done.trials
