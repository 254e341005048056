"""A suite says everything before the runs; what would make it unfair or meaningless is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from coevo_agents.referee.conduct import plan
from coevo_agents.referee.suite import make_suite, read_suite
from coevo_env.errors import ConfigError

GOOD: dict[str, Any] = {
    "claim": "two are better than one",
    "seeds": 3,
    "settings": {"task": "toy", "iterations": 4, "kl": {"beta": 0.2}},
    "arms": {"cory": {}, "ppo": {"num_agents": 1}},
    "claims": [{"better": "cory", "than": "ppo", "measure": "J", "margin": 0.1}],
}


def changed(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **more}


def test_a_suite_is_every_run_by_name():
    suite = make_suite(GOOD, "s")
    runs = plan(suite)
    assert [(arm, task, seed) for arm, task, seed, _ in runs] == [
        (arm, "toy", seed) for seed in range(3) for arm in ("cory", "ppo")
    ]
    assert [config.num_agents for *_, config in runs[:2]] == [2, 1]
    assert all(config.kl.beta == 0.2 and config.iterations == 4 for *_, config in runs)
    assert make_suite({**GOOD, "first_seed": 7}, "s").seeds == (7, 8, 9)


def test_the_digest_is_of_what_is_said_and_not_of_how_it_is_written(tmp_path):
    one, other, third = (tmp_path / f"{name}.toml" for name in "abc")
    one.write_text(
        'claim = "c"\nseeds = 2\n[settings]\ntask = "toy"\nkl.beta = 0.2\n[arms.x]\n[arms.y]\nnum_agents = 1\n'
        '[[claims]]\nbetter = "x"\nthan = "y"\nmargin = 0.1\n'
    )
    other.write_text(
        '# another hand\nseeds = 2\nclaim = "c"\n[settings]\ntask = "toy"\n[settings.kl]\nbeta = 0.2\n[arms.x]\n'
        '[arms.y]\nnum_agents = 1\n[[claims]]\nmargin = 0.1\nthan = "y"\nbetter = "x"\n'
    )
    third.write_text(one.read_text().replace("margin = 0.1", "margin = 0.2"))
    digests = [read_suite(path).digest for path in (one, other, third)]
    assert digests[0] == digests[1] != digests[2]


WRONG = {
    "a suite without claims": ({"claims": []}, "no \\[\\[claims\\]\\]"),
    "a claim about nobody": (
        {"claims": [{"better": "cori", "than": "ppo", "margin": 0.1}]},
        "arm of claim 1 'cori'.*Did you mean 'cory'",
    ),
    "a claim without a margin": ({"claims": [{"better": "cory", "than": "ppo"}]}, "has no 'margin'"),
    "a margin of nothing": ({"claims": [{"better": "cory", "than": "ppo", "margin": 0}]}, "expected a number > 0"),
    "an unknown measure": (
        {"claims": [{"better": "cory", "than": "ppo", "measure": "rewards", "margin": 1}]},
        "Did you mean 'reward'",
    ),
    "an arm against itself": ({"claims": [{"better": "cory", "than": "cory", "margin": 1}]}, "with itself"),
    "an unknown setting": ({"arms": {"cory": {"num_agent": 2}, "ppo": {}}}, "arm 'cory'.*Did you mean 'num_agents'"),
    "an unknown entry": ({"arm": {}}, "entry of a suite 'arm'.*Did you mean 'arms'"),
    "one arm": ({"arms": {"cory": {}}}, "has 1 arms"),
    "no seeds": ({"seeds": None}, "no seeds"),
    "a seed twice": ({"seeds": [1, 1]}, "expected different ones"),
    "another beta": ({"arms": {"cory": {}, "ppo": {"kl.beta": 0.1}}}, "differ in kl.*say why"),
    "another length": ({"arms": {"cory": {}, "ppo": {"max_new_tokens": 3}}}, "differ in max_new_tokens"),
    "another clip of one agent": (
        {"arms": {"cory": {}, "ppo": {"agents": {"llm2": {"ppo": {"clip": 0.1}}}}}},
        r"differ in agents\.llm2\.ppo\.clip",
    ),
    "another clip": ({"arms": {"cory": {}, "ppo": {"ppo": {"clip": 0.1}}}}, "differ in ppo.clip"),
    "another task": ({"arms": {"cory": {}, "ppo": {"task": "sentiment"}}}, "differ in (model|task)"),
    "matched by what is none": ({"match": {"by": "token"}}, "Did you mean 'tokens'"),
    "matched by who is none": ({"match": {"by": "tokens", "like": "x"}}, "match.like 'x'"),
    "unequal tuning": (
        {
            "tuning": {"seeds": 1},
            "arms": {"cory": {"grid": {"ppo.epochs": [1, 2]}}, "ppo": {"grid": {"ppo.epochs": [1, 2, 3]}}},
        },
        "different numbers of configurations \\(cory 2, ppo 3\\)",
    ),
    "a grid of nothing": ({"tuning": {"grid": {"ppo.epochs": []}}}, "is empty"),
    "a grid of what is none": ({"tuning": {"grid": {"ppo.epoch": [1]}}}, "Did you mean 'ppo.epochs'"),
    "a grid of what is shared": ({"tuning": {"grid": {"kl.beta": [0.1, 0.2]}}}, "tunes kl.beta"),
    "a frontier of one point": ({"frontier": {"values": [0.1]}}, "at least two"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_run_or_judged_is_refused_before_any_run(what):
    given, message = WRONG[what]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        make_suite(changed(**given), "s")


def test_who_says_why_may_differ():
    suite = make_suite(changed(arms={"cory": {}, "ppo": {"kl.beta": 0.1, "why": "as the paper prints it"}}), "s")
    assert suite.arms[1].why == "as the paper prints it"


def test_a_frontier_has_a_run_for_every_point_and_is_no_excuse():
    suite = make_suite(changed(frontier={"values": [0.1, 0.2]}), "s")
    assert [arm.name for arm in suite.arms] == ["cory @ 0.1", "cory @ 0.2", "ppo @ 0.1", "ppo @ 0.2"]
    assert [config.kl.beta for *_, config in plan(suite)[:4]] == [0.1, 0.2, 0.1, 0.2]
    with pytest.raises(ConfigError, match="differ in max_new_tokens"):
        make_suite(changed(frontier={"values": [0.1, 0.2]}, arms={"cory": {}, "ppo": {"max_new_tokens": 3}}), "s")
