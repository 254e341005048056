"""A model directory that cannot be what its configuration says is refused before anything is
allocated."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from coevo_env.errors import ConfigError
from coevo_env.lm import bounds
from coevo_env.lm.bounds import refuse_absurd
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.names import embedded_path
from coevo_env.testing import tiny_lm


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("n_layer", 10**9, "at most 100000000"),
        ("n_layer", 5000, "its weights are"),
        ("n_embd", 10**7, "which is what its weights are"),
        ("vocab_size", 10**8, "which is what its weights are"),
        ("n_inner", 10**8, "which is what its weights are"),
        ("n_positions", 10**9, "at most 100000000"),
        ("layer_norm_epsilon", 1e308, "a number below 1e30"),
    ],
)
def test_an_absurd_configuration_is_refused_at_once(name, value, says, tmp_path):
    folder = Path(shutil.copytree(embedded_path(), tmp_path / "model"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, name: value}))
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"says {name}=") as caught:
        LanguageModel.from_pretrained(folder)
    assert says in str(caught.value) and time.monotonic() - started < 20


def test_models_as_they_are_pass(tmp_path):
    refuse_absurd(embedded_path())
    for size in (3, 5, 5000):
        tiny_lm(size).module.save_pretrained(tmp_path / str(size))
        refuse_absurd(tmp_path / str(size))
    refuse_absurd("gpt2")  # a hub name


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", "3"])
def test_a_configuration_that_is_none_is_told(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="no causal language model could be loaded from"):
        refuse_absurd(tmp_path)


def test_layers_that_nobody_counts_would_pass(tmp_path, monkeypatch):
    """The mutant: without the count of tensors nothing speaks against 5,000 layers."""
    folder = Path(shutil.copytree(embedded_path(), tmp_path / "model"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "n_layer": 5000}))
    monkeypatch.setattr(bounds, "_tensors", lambda path: 10**6)
    refuse_absurd(folder)
