"""Fixtures of the adapter tests: the examples of docs/examples as modules, and the ledger of what
the environment paid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ledger import Ledger

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
if str(EXAMPLES) not in sys.path:
    sys.path.insert(0, str(EXAMPLES))  # a test trains what its example trains


@pytest.fixture(scope="module")
def ledger():
    """One ledger for a test file, which trains once and looks at the result from several sides."""
    with pytest.MonkeyPatch.context() as patch:
        yield Ledger().install(patch)
