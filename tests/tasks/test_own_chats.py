"""Own data that are chats, and the preview of what an agent reads."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import coevo_env
from coevo_env.errors import ConfigError
from coevo_env.game.rules import Rules
from coevo_env.game.splits import SPLITS
from coevo_env.game.task import Conversation, Prompt, Task
from coevo_env.tasks import make_task, preview
from coevo_env.testing import check_task, tiny_lm

ROWS = [{"prompt": f"What is {i} plus 1, “exactly”?", "answer": f"{i + 1}"} for i in range(40)]


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own(prompts, reward="length:3", **options) -> Task:
    return make_task("own", prompts=str(prompts), reward=reward, **options)


def texts(task: Task, split: str) -> list[str]:
    return [str(prompt) for prompt in getattr(task, split)]


# ---------------------------------------------------------------- chats
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def chatty():
    lm = tiny_lm(None, positions=512)
    lm.tokenizer.hf.chat_template = TEMPLATE
    return lm


def chats(tmp_path, column="messages") -> Path:
    system = {"role": "system", "content": "Be brief."}
    rows = [{column: [system, {"role": "user", "content": f"Question {i}?"}], "answer": str(i)} for i in range(20)]
    return write(tmp_path / "chat.jsonl", rows)


@pytest.mark.parametrize("column", ["messages", "prompt"])
def test_messages_are_rendered_by_the_models_template(tmp_path, chatty, column):
    task = own(chats(tmp_path, column))
    prompt = task.train[0]
    assert str(prompt).startswith("Question ") and prompt.earlier == ({"role": "system", "content": "Be brief."},)
    rules = Rules(task, chatty.tokenizer, max_context=400)
    text = f"[system]Be brief.[user]{prompt}[assistant]"
    assert rules.turn_context(0, prompt, []) == chatty.tokenizer.hf.encode(text)
    seen = rules.turn_context(0, prompt, ["I say 3."])
    said = f"[system]Be brief.[user]{prompt}\n\nSomebody answered:\nI say 3.\n\nGive your own answer.[assistant]"
    assert seen == chatty.tokenizer.hf.encode(said)
    assert text in preview(rules).replace("\n    ", "\n")
    assert "plays" in check_task(task, chatty)


def test_a_chat_without_a_template_is_refused(tmp_path, chatty):
    task = own(chats(tmp_path))
    with pytest.raises(ConfigError, match="has no chat template, and the prompts are chat messages"):
        Rules(task, tiny_lm(None).tokenizer)
    with pytest.raises(ConfigError, match="IntTokenizer renders none"):
        Rules(task, make_task("toy").tokenizer)
    odd = replace(
        task, train=[Prompt("hi", earlier=[{"role": "user", "content": "a"}, {"role": "system", "content": ""}])]
    )
    with pytest.raises(ConfigError, match="refuses messages of the roles user, system, user: system first"):
        Rules(odd, chatty.tokenizer)


def test_the_assistants_last_message_is_the_answer(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": f"{i}"}]},
                {"role": "assistant", "content": f"{i}!"},
            ]
        }
        for i in range(20)
    ]
    task = own(write(tmp_path / "a.jsonl", rows), "exact")
    assert all(p.answer == f"{p}!" and p.earlier == () for p in task.train)
    text = json.dumps([{"role": "user", "content": "from a cell"}])
    with open(tmp_path / "a.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["prompt"], *([text.replace("cell", f"cell {i}")] for i in range(20))])
    assert {str(p)[:11] for p in own(tmp_path / "a.csv").train} == {"from a cell"}


def test_equal_last_messages_of_different_chats_are_different_prompts(tmp_path):
    rows = [
        {"messages": [{"role": "system", "content": f"You are {i}."}, {"role": "user", "content": "Who are you?"}]}
        for i in range(20)
    ]
    task = own(write(tmp_path / "a.jsonl", rows))
    assert [len(getattr(task, split)) for split in SPLITS] == [16, 2, 2]
    assert pickle.loads(pickle.dumps(task.train[0])).earlier == task.train[0].earlier
    said = pickle.loads(pickle.dumps(task.render(task.train[0])))
    assert isinstance(said, Conversation) and said.messages in [row["messages"] for row in rows]


# ---------------------------------------------------------------- preview
def test_preview_shows_what_is_read(tmp_path):
    rows = [{"prompt": f"{i}: \x1b[31mred\u202e " + "x" * (2000 if i == 0 else 3), "answer": i} for i in range(20)]
    task = own(write(tmp_path / "a.jsonl", rows), "number", templates={"pioneer": "Q: {prompt}\nA:"}, max_context=5000)
    rules = Rules(task, tiny_lm(None).tokenizer)
    shown = preview(rules, 4)
    assert shown.count("of the train split") == 4 and "\x1b" not in shown and "\u202e" not in shown
    for index in range(4):
        prompt = task.train[index]
        length = len(f"Q: {prompt}\nA:".encode())  # a byte-level tokenizer
        assert f"prompt {index} of the train split, {length} tokens, answer '{prompt.answer}':" in shown
    assert "\\x1b[31mred" in shown and "\n    A:" in shown
    if any(str(p).startswith("0:") for p in task.train[:4]):
        assert " characters) ..." in shown
    with pytest.raises(ConfigError, match="preview: count=0"):
        preview(rules, 0)
    assert preview(coevo_env.raw_env(task="toy").rules) == (
        "prompt 0 of the train split, 1 tokens:\n    1\nprompt 1 of the train split, 1 tokens:\n    2"
    )
