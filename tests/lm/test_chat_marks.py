"""Chat templates as people bring them: marks that nobody calls special, and dates."""

from __future__ import annotations

import datetime

import pytest
import zoo_tokenizers
from tokenizers import AddedToken

from coevo_env.lm.tokenizer import TextTokenizer

MARKS = ("<|im_start|>", "<|im_end|>")


def chatml(special: bool) -> TextTokenizer:
    made = zoo_tokenizers.word_level(chat_template=zoo_tokenizers.CHATML)
    made.add_tokens([AddedToken(mark, special=special) for mark in (*MARKS, "naïve")])
    return TextTokenizer(made, chat=True)


@pytest.mark.parametrize("special", [True, False])
def test_marks_of_the_template_end_a_turn_and_stay_out_of_texts(special):
    """Not every fine-tune says that its marks are special."""
    tokenizer = chatml(special)
    start, end, word = tokenizer.hf.convert_tokens_to_ids([*MARKS, "naïve"])
    assert tokenizer.eos_ids == (0, end)
    the, soup = tokenizer.encode("the soup")
    said = tokenizer.decode([the, end, start, soup])
    assert not any(mark in said for mark in MARKS) and said.split() == ["the", "soup"]
    if not special:  # a word that was added is a word
        assert tokenizer.decode([the, word]).split() == ["the", "naïve"]


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d"])
def test_a_template_that_writes_the_date_writes_one_day(form, monkeypatch):
    """A context that is another one tomorrow would be no base for a number."""
    template = "{{ strftime_now('" + form + "') }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = TextTokenizer(zoo_tokenizers.byte_level(chat_template=template), chat=True)
    talk = [{"role": "user", "content": "the soup"}]
    today = datetime.date.today()
    shown = tokenizer.render_chat(talk)
    assert shown == f"{datetime.date(2024, 7, 26).strftime(form)} the soup"
    assert tokenizer.encode_chat(talk) == tokenizer.encode(shown)
    assert today.strftime(form) not in shown
