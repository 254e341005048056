"""Whoever reads a learner is told in what it is not the method of its paper."""

from __future__ import annotations

import importlib
import re

import pytest

from coevo_agents.learners.learner import LEARNERS

MODULES = [*(target.partition(":")[0] for target in LEARNERS.values()), "coevo_agents.methods.elastic_reset"]


@pytest.mark.parametrize("name", MODULES)
def test_a_method_ends_with_what_differs_from_its_paper(name):
    said = importlib.import_module(name).__doc__ or ""
    _, found, items = said.partition("\n\nDiffers from the paper in:\n\n")
    assert found, f"{name}: its docstring has no list 'Differs from the paper in:' (CONTRIBUTING.md, add a learner)"
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \w", items, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) != [], f"{name}: the list is numbered {numbers}"
    loose = [line for line in items.strip().splitlines() if not re.match(r"\d+\. |   \S", line)]
    assert not loose, f"{name}: the list is not the end of the docstring: {loose}"
