"""Reports of comparisons survive any rows, at any width, in both languages, and say the verdict
first."""

from __future__ import annotations

import dataclasses
import html
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "referee"))
from rows_made import arms, row

from coevo_agents.pages.verdict import report
from coevo_agents.pages.words import LANGUAGES, WORDS
from coevo_agents.referee.compare import judge
from coevo_agents.referee.suite import Claim, make_suite

CLAIM = Claim("a", "b", "J", 0.05)
EVIL = "<script>alert(1)</script>|`*[x](javascript:y)\x1b[31m"


def shown(made, width: int) -> str:
    stream = io.StringIO()
    made.terminal(Console(file=stream, width=width, color_system=None, legacy_windows=False))
    return stream.getvalue()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_verdict_comes_first_at_any_width(width, lang):
    rows = arms(0.3, 8, 0.05, np.random.default_rng(0))
    made = report(judge(rows, [CLAIM]), probes={"toy": {"empty answer": 0.0}}, lang=lang)
    text = " ".join(shown(made, width).split())
    first = {"en": "Supported: a is better than b", "ja": "支持:"}[lang]
    assert first in text and text.index(first) < 200
    assert "0.3" in text


@pytest.mark.parametrize("kind", ["supported", "contradicted", "equivalent", "undecided", "no verdict"])
def test_every_verdict_has_its_sentence(kind):
    effect, seeds, margin = {
        "supported": (0.3, 8, 0.05),
        "contradicted": (-0.3, 8, 0.05),
        "equivalent": (0.0, 8, 0.5),
        "undecided": (0.02, 8, 0.001),
        "no verdict": (0.3, 3, 0.05),
    }[kind]
    rows = arms(effect, seeds, 0.3 if kind == "undecided" else 0.05, np.random.default_rng(2))
    judgement = judge(rows, [dataclasses.replace(CLAIM, margin=margin)])
    for lang, start in zip(LANGUAGES, WORDS[kind], strict=True):
        first = report(judgement, lang=lang).sections[0].lines[-1]
        assert first.startswith(start.split(":")[0]), first


def test_what_rows_say_is_text_everywhere():
    rows = [
        dataclasses.replace(
            one,
            arm=EVIL if one.arm == "a" else one.arm,
            samples=[{"prompt": EVIL, "before": EVIL, "after": EVIL, "reward": [0.0, 1.0]}],
            provenance={"git_commit": EVIL, "versions": {EVIL: EVIL}, "platform": EVIL},
        )
        for one in arms(0.3, 5, 0.05, np.random.default_rng(0))
    ]
    rows.append(row("c", 0, 0.0, error=EVIL, measures={}))
    made = report(judge(rows, [Claim(EVIL, "b", "J", 0.1)], [EVIL]), probes={"toy": {EVIL: 0.5}})
    page = made.html()
    assert "<script>alert" not in page and html.escape("<script>alert(1)</script>") in page
    assert "\x1b" not in page + made.markdown() + shown(made, 80)
    markdown = made.markdown()
    assert "<script>" not in markdown and "[x](" not in markdown
    for line in markdown.splitlines():
        if line.startswith("| "):
            assert line.endswith(" |")


def test_it_survives_what_rows_can_lack():
    draw = np.random.default_rng(0)
    one_seed = arms(0.3, 1, 0.05, draw)
    failed = [
        dataclasses.replace(r, error="gone", measures={}) if r.arm == "a" else r for r in arms(0.3, 5, 0.05, draw)
    ]
    bare = [dataclasses.replace(r, by_prompt={}, settings={}, provenance={}) for r in arms(0.3, 5, 0.05, draw)]
    many = [r for n in range(6) for r in arms(0.1, 5, 0.05, draw, (f"a{n}", f"b{n}"))]
    tasks = [*arms(0.3, 5, 0.05, draw), *(dataclasses.replace(r, task="other") for r in arms(0.3, 5, 0.05, draw))]
    for rows in (one_seed, failed, bare, tasks):
        made = report(judge(rows, [CLAIM]))
        assert made.html() and made.markdown() and shown(made, 40)
    made = report(judge(many, [Claim("a0", "b0", "J", 0.1)]))
    assert made.html().count("<section") >= 5


def test_a_page_asks_the_network_for_nothing():
    page = report(judge(arms(0.3, 5, 0.05, np.random.default_rng(0)), [CLAIM])).html()
    assert "http" not in page.replace("http-equiv", "") and "src=" not in page


def test_a_suite_is_shown_with_its_digest_and_what_differed():
    suite = make_suite(
        {
            "claim": "one is better",
            "seeds": 5,
            "settings": {"task": "toy"},
            "arms": {"a": {}, "b": {"num_agents": 1}},
            "claims": [{"better": "a", "than": "b", "measure": "J", "margin": 0.05}],
        },
        "s",
    )
    made = report(judge(arms(0.3, 5, 0.05, np.random.default_rng(0)), suite.claims), suite)
    text = shown(made, 200)
    assert suite.digest in text and "num_agents=1" in text and "one is better" in text


def test_runs_that_were_there_say_that_nothing_was_claimed():
    made = report(judge(arms(0.3, 5, 0.05, np.random.default_rng(0)), [CLAIM], stated=False))
    assert "Nobody wrote a claim down" in made.sections[0].lines[0]


def test_both_languages_say_the_same_things():
    import string

    for english, japanese in WORDS.values():
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (english, japanese)]
        assert fields[0] == fields[1]
