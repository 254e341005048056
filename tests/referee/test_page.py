"""docs/referee.md names every measure and every entry of a suite."""

from __future__ import annotations

import re
from pathlib import Path

from coevo_agents.referee.measures import MEASURES
from coevo_agents.referee.suite import KEYS
from coevo_agents.runs.budget import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "referee.md").read_text(encoding="utf-8")


def test_the_page_has_all_measures_entries_and_budgets():
    named = set(re.findall(r"`([\w./\[\]]+)`", PAGE))
    assert set(MEASURES) - named == set()
    assert set(KINDS) - named == set()
    entries = {re.sub(r"[\[\]]|\.NAME", "", name) for name in named}
    assert set(KEYS) - entries == set()
