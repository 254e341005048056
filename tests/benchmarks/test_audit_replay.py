"""What `benchmarks.audit` makes of runs: peaks that last, limits above them, and the interval of
the rate of false alarms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.audit import LEAST, MARGIN, Replayed, fit, lasting, rate, report
from coevo_agents.methods.audit import SIGNALS, AuditConfig


def run(name: str = "a", group: str = "g", **peaks: float) -> Replayed:
    return Replayed(name, group, {**dict.fromkeys(SIGNALS, 0.0), **peaks}, [], None, 40)


def test_a_peak_is_what_some_observations_in_a_row_reach():
    assert lasting([0, 5, 0, 3, 4, 1], 2) == 3
    assert lasting([0, 5, 0, 3, 4, 1], 3) == 1
    assert lasting([7], 2) == -float("inf")


def test_limits_lie_above_every_null_run_and_never_below_the_least():
    limits = fit([run(eos=2.0), run(eos=1.0, length=0.1)])
    assert limits == {**LEAST, "eos": MARGIN * 2.0}
    assert fit([]) == LEAST


def test_limits_in_force_are_the_least_ones_rounded():
    for name, least in LEAST.items():
        assert getattr(AuditConfig(), name) == pytest.approx(least, rel=0.02), name


def test_the_interval_is_that_of_clopper_and_pearson():
    """Bounds from tables of the beta distribution: 0 of 20, and 1 of 20."""
    limits = dict.fromkeys(SIGNALS, 1.0)
    found = rate([run(str(n)) for n in range(20)], limits)
    assert (found["alarmed"], found["ci95"]) == (0, [0.0, pytest.approx(0.16843, abs=1e-5)])
    found = rate([run(str(n), eos=float(n == 3)) for n in range(20)], limits)
    assert found["which"] == ["3"]
    assert found["ci95"] == [pytest.approx(0.001265, abs=1e-6), pytest.approx(0.24873, abs=1e-5)]
    assert rate([run(eos=9.0)], {**limits, "eos": 0.0})["alarmed"] == 0, "a signal that is left out"


def test_limits_are_tried_on_runs_that_did_not_make_them():
    """Within each group every second run, by name, is kept from the fit."""
    null = [run(f"{group}{n}", group, eos=3.0 * (n % 2)) for group in "gh" for n in range(4)]
    found = report(null, [replace(run("c"), alarms=[(4, "llm1", "seat0", ["eos"])])], AuditConfig())
    split = found["fitted on one half"]
    assert (split["runs"], split["limits"]) == (4, LEAST)
    assert split["on the other half"]["which"] == ["g1", "g3", "h1", "h3"]
    assert found["null"]["with the limits in force"]["alarmed"] == 4
    assert found["collapsed"][0]["first alarm"] == [4, "llm1", "seat0", ["eos"]]
    assert found["runs without an alarm for an upper bound of the level"] == 368
