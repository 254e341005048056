"""What every KL estimator, controller, role schedule, reward mixing, metric and learner owes, over
its registry: one that is added is tried without a word here, and its row in the docs is asked for.
"""

from __future__ import annotations

import json
import math
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from coevo_env.errors import ConfigError, NonFiniteError
from coevo_env.game.kl import CONTROLLERS, ESTIMATORS, FULL, KLConfig, estimate, make_controller
from coevo_env.game.mixing import MODES, mixing_matrix
from coevo_env.game.roles import SCHEDULES, make_schedule
from coevo_env.metrics import METRICS, Responses, summarize

DOCS = next(folder / "docs" for folder in Path(__file__).resolve().parents if (folder / "docs").is_dir())


def rows(page: str, head: str) -> dict[str, list[str]]:
    """The rows of a table by the names in its first column, without quotes.

    Args:
        page: File in docs/.
        head: First heading of the table, as it stands there.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    table = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {row[0].strip("`").strip('"'): row[1:] for row in cells if row[0].startswith("`")}


TABLES = {
    "KL estimator": ([*ESTIMATORS, FULL], "rewards_and_kl.md", "`kl.estimator`"),
    "KL controller": (list(CONTROLLERS), "rewards_and_kl.md", "`kl.controller`"),
    "reward mixing": (list(MODES), "rewards_and_kl.md", "`mixing`"),
    "role schedule": (list(SCHEDULES), "role_exchange.md", "`roles`"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(kind, name, id=name) for kind, (names, *_) in TABLES.items() for name in names]
)
def test_documented(kind, name):
    _, page, head = TABLES[kind]
    assert name in rows(page, head), f"the {kind} {name!r} has no row in the table {head} of docs/{page}"


@pytest.mark.parametrize("kind", TABLES)
def test_nothing_else_is_documented(kind):
    names, page, head = TABLES[kind]
    assert set(rows(page, head)) <= set(names), f"docs/{page}, table {head}"


# ---------------------------------------------------------------- KL estimators
VOCABULARY = np.log([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.97, 0.01, 0.01, 0.01]])
"""Three policies over four tokens."""


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_is_what_the_docs_say(name):
    """Expectations by enumeration: each token with its probability."""
    said = rows("rewards_and_kl.md", "`kl.estimator`").get(name, ["", ""])[1]
    assert re.match(r"(un)?biased", said), f"docs/rewards_and_kl.md does not say whether {name!r} is biased: {said!r}"
    misses = []
    for policy, reference in permutations(VOCABULARY, 2):
        values = np.array([estimate(name, float(p), float(q)) for p, q in zip(policy, reference, strict=True)])
        assert values == pytest.approx(estimate(name, policy, reference), abs=1e-15)  # floats and arrays alike
        assert "never negative" not in said or (values >= -1e-15).all()
        exact = sum(math.exp(p) * (p - q) for p, q in zip(policy, reference, strict=True))
        misses.append(abs(float(np.exp(policy) @ values) - exact))
    assert (max(misses) < 1e-12) == said.startswith("unbiased"), f"{name!r} misses the exact KL by up to {max(misses)}"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_of_equal_policies_is_zero(name):
    assert estimate(name, VOCABULARY, VOCABULARY) == pytest.approx(0.0, abs=1e-15)
    assert KLConfig(estimator=name).estimator == name


# ---------------------------------------------------------------- KL controllers
@pytest.mark.parametrize("name", CONTROLLERS)
def test_controller_keeps_beta_in_bounds_and_its_state(name):
    config = KLConfig(controller=name, beta=0.05, target=2.0, horizon=100, rate=0.5)
    controller = make_controller(config)
    assert controller is not make_controller(config) and controller.beta == 0.05
    for kl in (0.0, 2.0, 50.0, 0.0, 0.0, 1e6, 3.0):
        controller.update(kl, 64)
        assert math.isfinite(controller.beta) and controller.beta >= 0
    other = make_controller(config)
    other.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    for each in (controller, other):
        each.update(7.3, 64)
    assert controller.beta == other.beta
    with pytest.raises(NonFiniteError):
        controller.update(math.nan, 64)


# ---------------------------------------------------------------- role schedules
@pytest.mark.parametrize("agents", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_seats_everyone_once_and_is_a_function_of_the_episode(name, agents):
    schedule, twin = make_schedule(name, agents, every=3, seed=5), make_schedule(name, agents, every=3, seed=5)
    asked = list(range(40))
    forwards = [schedule.assignment(episode) for episode in asked]
    assert all(sorted(seats) == list(range(agents)) for seats in forwards), f"{name!r} seats {forwards}"
    assert [twin.assignment(episode) for episode in reversed(asked)] == forwards[::-1]


# ---------------------------------------------------------------- reward mixing
@pytest.mark.parametrize("name", MODES)
def test_mixing_is_the_matrix_of_the_docs(name):
    weight = 0.25
    said = rows("rewards_and_kl.md", "`mixing`").get(name, [""])[0].strip("`")
    assert said.startswith("[["), f"docs/rewards_and_kl.md gives no matrix of {name!r} for two agents: {said!r}"
    assert mixing_matrix(name, 2, weight).tolist() == json.loads(said.replace("λ", str(weight)))


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
@pytest.mark.parametrize("name", MODES)
def test_mixing_is_a_finite_matrix_or_a_clear_refusal(name, agents):
    refused = ""
    try:
        matrix = mixing_matrix(name, agents, 0.25)
    except ConfigError as error:
        matrix, refused = np.eye(agents), str(error)
    assert not refused or (agents == 1 and "expected at least 2 agents" in refused), refused
    assert matrix.shape == (agents, agents) and matrix.dtype == np.float64 and np.isfinite(matrix).all()


# ---------------------------------------------------------------- metrics
RESPONSES = {
    "none": ([], []),
    "one that is empty": ([""], [[]]),
    "one that ends at once": ([""], [[0]]),
    "one token, cut": (["a"], [[1]]),
    "equal ones": (["a b"] * 4, [[1, 2, 0]] * 4),
    "several": (["a b", "a a a a", "c", ""], [[1, 2, 0], [1, 1, 1, 1], [3, 0], [0]]),
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_defined(name):
    row = f"`<agent>/eval/{name}`"
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert f"| {row} |" in text, f"the metric {name!r} has no row {row} in docs/metrics.md"


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_finite_and_a_share_is_one(name):
    units = re.findall(rf"^\| `<agent>/eval/{name}` \| (\w+)", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    for what, (texts, tokens) in RESPONSES.items():
        value = METRICS[name](Responses(texts, tokens, 0))
        assert isinstance(value, float) and math.isfinite(value), f"{name!r} of {what}: {value!r}"
        assert value == summarize(texts, tokens, 0)[name]
        if units == ["share"]:
            assert 0 <= value <= 1, f"{name!r}, a share, of {what}: {value}"


# ---------------------------------------------------------------- learners
def test_learners_are_in_the_table_of_the_docs_and_can_be_found():
    from coevo_agents.learners.learner import LEARNERS, find_learner

    documented = set(rows("learners.md", "`--learner`")) - {"module:Class"}
    for name in LEARNERS:
        assert name in documented, f"the learner {name!r} has no row in the first table of docs/learners.md"
        assert callable(find_learner(name))
    assert documented <= set(LEARNERS)
