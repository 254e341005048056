"""The examples of a warm start: what is taught is what was given, or is refused before training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coevo_agents.methods.warm_start import WarmStartConfig, examples
from coevo_env.errors import ConfigError
from coevo_env.faces.build import build
from coevo_env.testing import tiny_lm


def test_a_warm_start_that_would_be_cut_is_refused(tmp_path):
    lm = tiny_lm(5, seed=0, eos_id=0)
    rules, _ = build("toy", lm, num_agents=1)  # three tokens a turn
    file = tmp_path / "pairs.jsonl"
    rows = ["1 2 3", "1 2 3 4", "1", "1 2 3 4 1"]
    file.write_text("".join(json.dumps({"prompt": "2", "response": row}) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"2 of 4 responses .* row 2, '1 2 3 4', has 4 .*max_new_tokens=3.* set .*=6"):
        examples(rules, str(file))
    talkative, _ = build(replace(rules.task, scripted=lambda prompt, seen: "1 2 3 4"), lm, num_agents=1)
    with pytest.raises(ConfigError, match="the scripted policy of task 'toy': 2 of 2 responses are longer than a turn"):
        examples(talkative)


def test_warm_start_examples_from_a_file(tmp_path):
    lm = tiny_lm(5, seed=0, eos_id=0)
    rules, _ = build("toy", lm, num_agents=1)
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "2", "response": "3 4"}\n\n{"prompt": "1", "response": ""}\n')
    assert examples(rules, str(file)) == [([2], [3, 4, 0]), ([1], [0])]
    file.write_text('{"prompt": "2", "response": "3 4"}\n{"prompt": "2"}\n')
    with pytest.raises(ConfigError, match=r"pairs.jsonl, row 2: no response; expected the columns prompt and response"):
        examples(rules, str(file))
    file.write_text('{"prompt": "' + "1 " * 99 + '", "response": "3 4"}\n')
    with pytest.raises(ConfigError, match=r"row 1: the prompt .* has 99 tokens as agents read it"):
        examples(rules, str(file))
    for data, said in (
        (b"", "has no rows"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b"[" * 10**5, "nested too deeply"),
    ):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=said):
            examples(rules, str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        examples(rules, str(tmp_path / "nothing.jsonl"))
    with pytest.raises(ConfigError, match="steps=-1"):
        WarmStartConfig(steps=-1)
