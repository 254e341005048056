"""A tiny model, and the run of it that nothing disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
from runs import config, train


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory) -> Path:
    """The uninterrupted run of the default tiny settings."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    train(config(model), directory)
    return directory
