"""The collapse audit in a run: what it writes down, what follows, and that a resumed run goes on
with it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import runs
from runs import assert_same_run, coevo, config, lines, train

from benchmarks.audit import replay
from coevo_agents.methods.audit import AuditConfig, sentence
from coevo_agents.referee.measures import measured
from coevo_agents.runs.checkpoint import CheckpointError, checkpoints, load, manifest
from coevo_agents.runs.record import read_record
from coevo_agents.runs.schema import Alarm, misfit
from coevo_agents.training.loop import Run
from coevo_agents.training.signals import by_seat
from coevo_agents.training.watch import best_of
from coevo_env.errors import CoevoError

NARROW = {
    "audit.responses": 2,
    "audit.kl_per_token": 0.02,
    "kl.beta": 0.0,
    "ppo.learning_rate": 0.03,
    "eval_prompts": 8,
    "eval_draws": 1,
}
"""Limits that a run of 6 small batches leaves behind."""


def narrow(model, **more):
    return config(model, **{name.replace(".", "__"): value for name, value in {**NARROW, **more}.items()})


@pytest.fixture(scope="module")
def gone(model, tmp_path_factory):
    """A run with alarms, and what it said."""
    folder, said = tmp_path_factory.mktemp("gone") / "run", []
    train(narrow(model), folder, say=said.append)
    return folder, said


def test_alarms_are_said_and_written_down(gone):
    folder, said = gone
    alarms = lines(folder, "alarms.jsonl")
    assert alarms
    assert {alarm["place"] for alarm in alarms} >= {"seat0", "seat1", "alone"}
    assert [line for line in said if "alarm" in line] == [sentence(alarm) for alarm in alarms]
    rows = {row["iteration"]: row for row in lines(folder)}
    train_prompts = {turn["prompt"] for turn in lines(folder, "transcripts.jsonl")}
    for alarm in alarms:
        misfit(alarm, Alarm)
        assert alarm["since"] < alarm["iteration"] <= 6
        row = rows[alarm["iteration"]]
        assert row[f"{alarm['agent']}/audit/score"] >= 1
        assert row[f"{alarm['agent']}/audit/alarms"] >= 1
        (found,) = [one for one in alarm["signals"] if one["signal"] == "kl_per_token"]
        tag = f"{alarm['agent']}/{alarm['place']}/kl_per_token"
        if alarm["place"] == "alone":
            value = row[f"{alarm['agent']}/eval/kl"] / row[f"{alarm['agent']}/eval/length"]
        else:
            value = row[tag]
        assert found["value"] == pytest.approx(value)
        assert found["threshold"] == pytest.approx(found["baseline"] + 0.02)
        assert 1 <= len(alarm["examples"]) <= 3
        assert all(set(one) == {"prompt", "answer"} for one in alarm["examples"])
    assert train_prompts


def test_what_is_read_back_is_what_was_written(gone):
    folder, _ = gone
    record = read_record(folder)
    assert record.audited
    assert record.alarms == lines(folder, "alarms.jsonl")
    found = measured(record)
    assert (found["alarmed"], found["alarm_at"]) == (1.0, record.alarms[0]["iteration"])
    shown = coevo("show", folder)
    assert shown.returncode == 0, shown.stderr
    assert sentence(record.alarms[0])[:60] in shown.stdout
    assert "collapse alarm" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_replay_of_a_run_gives_its_alarms(gone):
    folder, _ = gone
    record = read_record(folder)
    again = replay(record, AuditConfig(kl_per_token=0.02))
    assert again is not None
    assert [one[:3] for one in again.alarms] == [(a["iteration"], a["agent"], a["place"]) for a in record.alarms]


def test_lines_that_are_no_alarm_are_left_out_with_a_note(gone, tmp_path):
    shutil.copytree(gone[0], tmp_path / "run")
    good = lines(gone[0], "alarms.jsonl")
    bad = [{**good[0], "place": "../../etc"}, {**good[0], "iteration": -1}, {**good[0], "signals": []}, {"agent": 3}]
    with (tmp_path / "run" / "alarms.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in bad)
    record = read_record(tmp_path / "run")
    assert record.alarms == good
    assert any("alarms.jsonl" in note and "3 more" in note for note in record.notes)


def test_a_resumed_run_is_the_uninterrupted_one(gone, model, tmp_path):
    """After every iteration, and with batches that are taken together on the way."""
    for stop in range(1, 6):
        folder = tmp_path / str(stop)
        with Run(narrow(model), folder) as run:
            while run.iteration < stop:
                run.iterate()
            run.save()
        Run(narrow(model), folder, resume=True).train()
        assert_same_run(folder, gone[0])


def test_pools_are_part_of_a_checkpoint(model, tmp_path):
    wide = narrow(model, **{"audit.responses": 16, "iterations": 9})
    train(wide, tmp_path / "whole")
    assert lines(tmp_path / "whole", "alarms.jsonl")
    with Run(wide, tmp_path / "cut") as run:
        while run.iteration < 3:
            run.iterate()
        run.save()
        assert any("pool" in stream for stream in run.state.audit["streams"].values())
    Run(wide, tmp_path / "cut", resume=True).train()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_an_evaluation_that_fails_and_is_done_again_gives_the_same_alarms(gone, model, tmp_path, monkeypatch):
    """The batch is gone by then, and its examples are not."""
    from coevo_agents.training import loop

    first = min(alarm["iteration"] for alarm in lines(gone[0], "alarms.jsonl"))
    real = loop.conclude

    def broken(config, state, *rest):
        if state.iteration == first:
            raise CoevoError("broken")
        return real(config, state, *rest)

    monkeypatch.setattr(loop, "conclude", broken)
    with pytest.raises(CoevoError, match="broken"):
        Run(narrow(model), tmp_path / "run").train()
    monkeypatch.undo()
    Run(narrow(model), tmp_path / "run", resume=True).train()
    assert_same_run(tmp_path / "run", gone[0])


# ---------------------------------------------------------------- nothing happens
@pytest.mark.parametrize(
    "given",
    [
        {"learner": "frozen"},
        {"learner": "best_of_n"},
        {"learner": "frozen", "num_agents": 1},
        {"learner": "frozen", "num_agents": 3, "exchange_every": 0},
        {"learner": "frozen", "roles": "random"},
        {"learner": "frozen", "weights": "shared"},
        {"learner": "frozen", "population.capacity": 2, "population.every": 1, "population.share": 0.5},
    ],
)
def test_what_does_not_learn_has_no_alarm(model, tmp_path, given):
    """Real sampling noise, with learners that report no ratio."""
    more = {"model": str(model), "iterations": 12, "batch_size": 48, "eval_prompts": 32, "eval_draws": 1, **given}
    if given["learner"] == "best_of_n":
        more["best_of_n.n"] = 2
    train(runs.apply(runs.Config(), {**runs.tiny(given["learner"]), **more}), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.audited
    assert record.alarms == []
    assert measured(record)["alarmed"] == 0.0
    assert measured(record)["alarm_at"] == 13.0
    assert 0 <= max(value for name in record.agents for value in record.series(f"{name}/audit/score")[1]) < 1


def test_a_run_with_too_few_answers_is_not_called_sound(model, tmp_path):
    train(runs.apply(runs.Config(), {**runs.tiny("frozen"), "model": str(model), "iterations": 2}), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert not record.audited
    assert not {"alarmed", "alarm_at"} & set(measured(record))


def test_runs_without_alarms_are_read_and_go_on_without_the_audit(gone, model, tmp_path):
    """As an earlier version left them: no file, no state, no numbers by seat."""
    folder = tmp_path / "run"
    with Run(narrow(model), folder) as run:
        while run.iteration < 2:
            run.iterate()
        run.save()
    (folder / "alarms.jsonl").unlink()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    old = [{tag: v for tag, v in row.items() if "/seat" not in tag and "audit" not in tag} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    (place,) = [path for path in checkpoints(folder / "checkpoints") if path.name == "000002"]
    state = json.loads((place / "state.json").read_text())
    for name in ("audit", "alarms", "former"):
        del state[name]
    state["offsets"] = {"metrics.jsonl": (folder / "metrics.jsonl").stat().st_size, "transcripts.jsonl": 0}
    (place / "state.json").write_text(json.dumps(state))
    (place / "manifest.json").unlink()
    (place / "manifest.json").write_text(json.dumps(manifest(place)))
    said: list[str] = []
    Run(narrow(model), folder, resume=True, say=said.append).train()
    assert any("without the collapse audit" in line for line in said)
    record = read_record(folder)
    assert (record.audited, record.alarms, record.notes) == (False, [], [])
    assert "alarmed" not in measured(record)
    (folder / "alarms.jsonl").unlink()
    assert read_record(folder).notes == []


def test_a_damaged_state_of_the_audit_is_no_checkpoint(gone, tmp_path):
    place = tmp_path / "000006"
    shutil.copytree(checkpoints(gone[0] / "checkpoints")[-1], place)
    state = json.loads((place / "state.json").read_text())
    state["audit"]["baseline"]["alone"]["count"] = "many"
    (place / "state.json").write_text(json.dumps(state))
    (place / "manifest.json").unlink()
    (place / "manifest.json").write_text(json.dumps(manifest(place)))
    with pytest.raises(CheckpointError, match=r"audit.baseline.alone.count"):
        load(place)


# ---------------------------------------------------------------- what follows
def test_the_best_is_no_collapsed_one(gone, model, tmp_path):
    """Reward is highest after the alarms, and the best one lies before what they are about."""
    folder = tmp_path / "run"
    run = train(narrow(model, eval_every=1, keep=1, iterations=8, **{"audit.kl_per_token": 0.1}), folder)
    alarms = lines(folder, "alarms.jsonl")
    since = min(alarm["since"] for alarm in alarms)
    scores = [np.mean([row[f"{name}/eval/reward"] for name in ("llm1", "llm2")]) for row in lines(folder)]
    assert int(np.argmax(scores)) >= since
    assert run.state.best[1] < since
    assert run.state.best[1] in (-1, 1 + int(np.argmax(scores[1:since])) if since > 1 else -1)


def test_an_alarm_takes_back_a_best_one_that_it_is_about():
    alarms, none, sound = [{"since": 8}], (-np.inf, -1), {"streams": {}}
    assert best_of((0.9, 10), (0.5, 4), sound, alarms) == (True, (0.5, 4), none)
    assert best_of((0.9, 7), (0.5, 4), sound, alarms) == (True, (0.9, 7), (0.5, 4))
    assert best_of((0.9, 10), (0.5, 9), sound, alarms) == (True, none, none)
    assert best_of((0.9, 10), (0.5, 9), sound, []) == (True, (0.9, 10), (0.5, 9))
    assert best_of(none, none, {"streams": {"llm1/seat0": {"active": [], "over": {"eos": [3]}}}}, [])[0] is False


def test_stop_on_collapse_ends_the_run_and_it_can_go_on(gone, model, tmp_path):
    folder = tmp_path / "run"
    first = min(alarm["iteration"] for alarm in lines(gone[0], "alarms.jsonl"))
    assert 0 < first < 6
    run = train(narrow(model, stop_on="collapse"), folder)
    assert (run.alarmed, run.iteration) == (True, first)
    assert json.loads((folder / "summary.json").read_text())["iterations"] == first
    assert lines(folder)[-1]["iteration"] == first
    assert "llm1/eval/reward" in lines(folder)[-1]
    assert checkpoints(folder / "checkpoints")[-1].name == f"{first:06d}"
    again = Run(narrow(model, stop_on="collapse"), folder, resume=True)
    again.train()
    assert again.iteration == first, "the same settings end it at once"
    Run(narrow(model), folder, resume=True).train()
    assert runs.weights(folder) == runs.weights(gone[0])
    ours, theirs = lines(folder, "alarms.jsonl"), lines(gone[0], "alarms.jsonl")
    # the evaluation at its first end stands beside those of the run that went through
    assert [one for one in ours if one["place"] != "alone"] == [one for one in theirs if one["place"] != "alone"]


def test_the_command_ends_with_a_status_of_its_own(model, tmp_path):
    words = {**{name: value for name, value in runs.TINY.items() if name not in NARROW}, **NARROW, "eval_every": 0}
    given = [word for name, value in words.items() for word in ("--set", f"{name}={value}")]
    done = coevo("train", "--model", model, "--out", tmp_path / "run", "--stop-on", "collapse", *given)
    assert done.returncode == 3, done.stderr
    assert "the collapse audit ended the run after iteration" in done.stderr
    assert "--stop-on never" in done.stderr
    assert "collapse alarm, iteration" in done.stdout


# ---------------------------------------------------------------- numbers by seat
def test_numbers_by_seat_are_those_of_the_turns_in_it(model, tmp_path):
    with Run(config(model, exchange_every=0, batch_size=6, eval_prompts=4), tmp_path / "run") as run:
        row = run.iterate()
        game = run.parts.game
        for number, rollout in enumerate(game.rollouts()):
            turns = [game.episodes[b].turns[seat] for b, seat in enumerate(rollout.seats)]
            found = by_seat(game, rollout, [turn.text for turn in turns])
            assert {tag: row[f"llm{number + 1}/{tag}"] for tag in found} == found
            for seat in (0, 1):
                mine = [b for b in range(6) if rollout.seats[b] == seat]
                tokens = sum(int(rollout.lengths[b]) for b in mine)
                reference = sum(float(rollout.ref_logprobs[b, : rollout.lengths[b]].sum()) for b in mine)
                said = sum(float(rollout.logprobs[b, : rollout.lengths[b]].sum()) for b in mine)
                ended = [rollout.tokens[b, rollout.lengths[b] - 1] == 0 for b in mine]
                of = {tag.partition("/")[2]: value for tag, value in found.items() if tag.startswith(f"seat{seat}/")}
                assert len(mine) == 3
                assert of["responses"] == 3
                assert of["cross_entropy"] == pytest.approx(-reference / tokens)
                assert of["kl_per_token"] == pytest.approx((said - reference) / tokens, abs=1e-9)
                assert of["eos"] == pytest.approx(np.mean(ended))
                assert of["length"] == pytest.approx(tokens / 3)
                assert of["unique"] == pytest.approx(len({turns[b].text for b in mine}) / 3)
