"""Rows judged: by hand, on planted effects and on none; and rows that do not belong together."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from rows_made import arms, row

from coevo_agents.referee.compare import judge
from coevo_agents.referee.rows import read_rows, write_rows
from coevo_agents.referee.suite import Claim
from coevo_env.errors import ConfigError

CLAIM = Claim("a", "b", "J", 0.05)


def test_a_worked_example():
    rewards = {"a": [0.5, 0.7, 0.6, 0.8, 0.9], "b": [0.4, 0.5, 0.5, 0.6, 0.6]}
    rows = [row(arm, seed, reward) for arm, found in rewards.items() for seed, reward in enumerate(found)]
    judgement = judge(rows, [CLAIM])
    (judged,) = judgement.judged
    assert judged.difference is not None
    assert judged.difference.values == pytest.approx((0.1, 0.2, 0.1, 0.2, 0.3))
    assert judged.difference.mean.estimate == pytest.approx(0.18)
    assert judged.difference.pvalue == pytest.approx(2 / 2**5)  # all of one sign: 2 of 32
    assert judged.difference.iqm.estimate == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert judged.difference.chance.estimate == pytest.approx((2 + 5 + 4 + 5 + 5) / 25)  # ties count half
    cell = judgement.cell("a", "toy", "reward")
    assert (
        cell is not None and cell.mean.estimate == pytest.approx(0.7) and cell.spread == pytest.approx(0.158, abs=1e-3)
    )
    assert judged.verdict.kind == "undecided"  # five seeds can give no smaller p than 1/16


def test_less_is_better_where_less_is_better():
    rows = [row(arm, seed, 0.5, kl) for arm, kl in (("a", 1.0), ("b", 3.0)) for seed in range(6)]
    (judged,) = judge(rows, [Claim("a", "b", "kl", 0.1)]).judged
    assert judged.difference is not None and judged.difference.mean.estimate == pytest.approx(2.0)
    assert judged.verdict.kind == "supported"


@pytest.mark.parametrize(
    ("effect", "margin", "kind"),
    [(0.3, 0.05, "supported"), (-0.3, 0.05, "contradicted"), (0.0, 0.3, "equivalent"), (0.02, 0.01, "undecided")],
)
def test_what_was_planted_is_found(effect, margin, kind):
    rows = arms(effect, 10, 0.05, np.random.default_rng(0))
    assert judge(rows, [Claim("a", "b", "J", margin)]).judged[0].verdict.kind == kind


@pytest.mark.slow
def test_200_suites_of_nothing_call_a_difference_at_the_stated_rate():
    """A/A: two arms that are the same, and three claims; any false one counts. 5 % of 200 is 10,
    and more than 18 are less likely than 1 %."""
    draw, wrong = np.random.default_rng(1), 0
    for _ in range(200):
        rows = arms(0.0, 8, 0.1, draw, ("a", "b"))
        rows += [dataclasses.replace(r, arm="c") for r in arms(0.0, 8, 0.1, draw, ("c", "d")) if r.arm == "c"]
        claims = [Claim("a", "b", "J", 0.01), Claim("a", "c", "J", 0.01), Claim("c", "b", "J", 0.01)]
        kinds = {one.verdict.kind for one in judge(rows, claims).judged}
        wrong += bool(kinds & {"supported", "contradicted"})
    assert wrong <= 18


def test_more_claims_need_more_evidence():
    rows = arms(0.2, 7, 0.08, np.random.default_rng(3))
    alone = judge(rows, [CLAIM]).judged[0].adjusted
    among = judge(rows, [CLAIM] + [Claim("a", "b", "distinct_2", 0.1)] * 9).judged[0].adjusted
    assert among > alone


def test_power_is_that_among_all_claims():
    """What is promised is what the verdict does: of six seeds and four claims it can call nothing a
    difference, and of eight it can."""
    for seeds, can in ((6, False), (7, False), (8, True)):
        rows = arms(0.3, seeds, 0.001, np.random.default_rng(0))
        claims = [Claim("a", "b", "J", 0.01)] + [Claim("a", "b", "reward", 0.01)] * 3
        judgement = judge(rows, claims)
        kinds = {one.verdict.kind for one in judgement.judged}
        assert {one.powered for one in judgement.judged} == {float(can)}
        assert kinds == {"supported" if can else "undecided"}
        assert any("no difference could have been shown" in note for note in judgement.notes) is not can
        alone = judge(rows, claims[:1])
        assert alone.judged[0].verdict.kind == "supported" and alone.judged[0].powered == 1.0


def test_claims_out_of_reach_are_told_by_those_with_most_seeds():
    """By hand: the least p are 1/64 and 1/32 of 7 and 6 seeds, Holm's then 4/64 = 0.0625."""
    rows = [one for one in arms(0.3, 7, 0.001, np.random.default_rng(0)) if (one.arm, one.seed) != ("b", 6)]
    rows += [row("c", seed, 0.0) for seed in range(7)]
    claims = [Claim("a", "c", "J", 0.01), Claim("a", "c", "reward", 0.01)]
    claims += [Claim("a", "b", "J", 0.01), Claim("a", "b", "reward", 0.01)]
    (said,) = [note for note in judge(rows, claims).notes if "could have been shown" in note]
    assert said.startswith("For 4 of 4 claims") and "with 7 seeds p is never under 0.0625" in said
    assert "At least 8 seeds" in said


def test_under_five_seeds_there_is_no_verdict():
    judgement = judge(arms(0.5, 4, 0.01, np.random.default_rng(0)), [CLAIM])
    assert judgement.judged[0].verdict.kind == ""
    assert "under 5 differences are shown and no verdict" in " ".join(judgement.notes)


def test_a_failed_run_is_a_row_and_takes_its_pair_out():
    rows = arms(0.3, 6, 0.05, np.random.default_rng(0))
    broken = dataclasses.replace(rows[2], error="out of memory", measures={})
    judgement = judge([*rows[:2], broken, *rows[3:]], [CLAIM])
    assert [one.error for one in judgement.failed] == ["out of memory"]
    assert judgement.judged[0].difference is not None and len(judgement.judged[0].difference.values) == 5
    assert "a on toy has no run of seed 2" in " ".join(judgement.notes)


APART = {
    "twice": (lambda r: r, "two rows are of arm 'a'"),
    "draws": (lambda r: dataclasses.replace(r, seed=9, measured={**r.measured, "draws": 8}), "draws is 2 and 8"),
    "prompts": (
        lambda r: dataclasses.replace(r, seed=9, by_prompt={**r.by_prompt, "asked": ["x", "y", "z"]}),
        "answered different prompts",
    ),
    "task": (
        lambda r: dataclasses.replace(r, seed=9, inputs={"task": {"prompts": "1" * 64}}),
        "different versions of the task",
    ),
}


@pytest.mark.parametrize("what", APART)
def test_rows_that_do_not_belong_together_are_refused(what):
    change, message = APART[what]
    rows = arms(0.1, 3, 0.1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=message):
        judge([*rows, change(rows[0])], [CLAIM])


def test_other_commits_and_versions_are_said():
    rows = arms(0.1, 3, 0.1, np.random.default_rng(0))
    other = {"git_commit": "decaf", "versions": {"torch": "2.5.0"}, "platform": "there"}
    notes = " ".join(judge([dataclasses.replace(rows[0], provenance=other), *rows[1:]], [CLAIM]).notes)
    assert "different commits" in notes and "versions of torch: 2.13.0, 2.5.0" in notes and "platforms" in notes


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_kept_whole(name, tmp_path):
    rows = arms(0.1, 3, 0.1, np.random.default_rng(0))
    write_rows(tmp_path / name, rows)
    assert read_rows(tmp_path / name) == rows
    first = (tmp_path / name).read_bytes()
    write_rows(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == first


def test_rows_that_were_cut_or_edited_are_refused(tmp_path):
    rows, path = arms(0.1, 3, 0.1, np.random.default_rng(0)), tmp_path / "rows.jsonl"
    write_rows(path, rows)
    text = path.read_text()
    for spoilt, message in (
        (text[:-40], "line 6 of .* is no row"),
        (text + text.splitlines()[0] + "\n", "two rows are of arm"),
        (text.replace('"seed": 0', '"seed": "0"', 1), "line 1 of .* is no row"),
        (text.replace('"reward": ', '"reward": "x", "y": ', 1), "is no row"),
        (json.dumps([1]) + "\n", "line 1"),
        ("", "has no rows"),
    ):
        path.write_text(spoilt)
        with pytest.raises(ConfigError, match=f"(?s){message}"):
            read_rows(path)


def test_two_way_intervals_are_given_where_rows_have_prompts():
    rows = arms(0.3, 6, 0.05, np.random.default_rng(0))
    (judged,) = judge(rows, [CLAIM]).judged
    assert judged.difference is not None and judged.difference.prompts is not None
    assert judged.difference.prompts.estimate == pytest.approx(judged.difference.mean.estimate)
    bare = [dataclasses.replace(one, by_prompt={}) for one in rows]
    (judged,) = judge(bare, [CLAIM]).judged
    assert judged.difference is not None and judged.difference.prompts is None
