"""Reports of comparisons survive any rows, at any width, in both languages, and say the verdict
first; what rows say stays text."""

from __future__ import annotations

import dataclasses
import html
import inspect
import io
import re
import string
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "referee"))
from rows_made import arms, row

from coevo_agents.pages import conclusion, evidence, parts, verdict, words
from coevo_agents.pages.console import HANDLER
from coevo_agents.pages.verdict import LANGUAGES, report
from coevo_agents.referee.compare import judge
from coevo_agents.referee.frontier import frontier_rows
from coevo_agents.referee.measures import MEASURES
from coevo_agents.referee.notes import Note
from coevo_agents.referee.suite import Claim, make_suite

CLAIM = Claim("a", "b", "J", 0.05)
EVIL = "<script>alert(1)</script>|`*[x](javascript:y)\x1b[31m\u202e&lt;"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def made_of(rows, claims=(CLAIM,), notes=(), **options):
    return report(judge(rows, claims, notes), **options)


def shown(made, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors=HANDLER, write_through=True)
    made.terminal(Console(file=stream, width=width, color_system=None, legacy_windows=False))
    return raw.getvalue().decode(encoding)


def flat(text: str) -> str:
    return " ".join(text.split())


def full(seeds: int = 6, names=("a", "b"), task: str = "toy", effect: float = 0.3):
    """Rows that have everything."""
    found = []
    for one in arms(effect, seeds, 0.05, np.random.default_rng(0), names):
        reward = one.measures["reward"]
        times = [0, 2, 4, 6]
        curve = {"iteration": times, "reward": [reward * t / 6 for t in times], "kl": [0.1 * t for t in times]}
        gone = one.arm == names[-1] and one.seed < 2
        more = {"collapsed": float(gone), "collapse_at": 4.0 if gone else 7.0, "cpu_s": 3600.0, "episodes": 96.0}
        sample = {"prompt": "say <i>it</i>", "before": "no", "after": f"{one.arm}\nsaid", "reward": [0.0, reward]}
        measures = {**one.measures, **more, "spent/episodes": 96.0}
        found.append(dataclasses.replace(one, task=task, curves=curve, samples=[sample], measures=measures))
    return found


def a_suite(**more):
    given = {
        "claim": "one is better",
        "seeds": 6,
        "settings": {"task": "toy"},
        "arms": {"a": {}, "b": {"num_agents": 1}},
        "claims": [{"better": "a", "than": "b", "measure": "J", "margin": 0.05}],
    }
    return make_suite({**given, **more}, "s")


# ---------------------------------------------------------------- the verdict
@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_verdict_comes_first_at_any_width(width, lang):
    made = made_of(full(8), probes={"toy": {"empty answer": 0.0}}, lang=lang)
    text = shown(made, width)
    first = {"en": "Supported: a is better than b", "ja": "支持される："}[lang]
    assert first in flat(text)
    assert flat(text).index(first) < 200
    assert max(len(line) for line in text.splitlines()) <= width
    assert not re.search(r"^  n: 8 +$", text, re.MULTILINE)  # lines of lists are not filled up


def test_lists_keep_every_word_and_are_not_filled_up():
    said = "one two three four five six seven eight nine ten"
    rows = [dataclasses.replace(one, samples=[{**one.samples[0], "after": said}]) for one in full(6)]
    text = shown(made_of(rows), 40)
    lines = text[text.index("say <i>it</i>") :].splitlines()
    lines = lines[: lines.index("Provenance") - 1]
    assert flat(" ".join(lines)).count(said) == 2 and len(lines) > 5
    assert all(line == line.rstrip() and len(line) <= 40 for line in lines)


CASES = {
    "supported": (0.3, 8, 0.05, "Supported: a is better", "支持される："),
    "contradicted": (-0.3, 8, 0.05, "Contradicted: a is worse", "主張に反する："),
    "equivalent": (0.0, 8, 0.5, "About equal: a and b differ", "ほぼ同等："),
    "undecided": (0.02, 8, 0.001, "Undecided: a against b", "判断できない："),
    "": (0.3, 3, 0.05, "No verdict: a against b", "判定なし："),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_verdict_has_its_sentence(kind):
    effect, seeds, margin, *starts = CASES[kind]
    rows = arms(effect, seeds, 0.3 if kind == "undecided" else 0.05, np.random.default_rng(2))
    judgement = judge(rows, [dataclasses.replace(CLAIM, margin=margin)])
    assert judgement.judged[0].verdict.kind == kind
    for lang, start in zip(LANGUAGES, starts, strict=True):
        line = report(judgement, lang=lang).sections[0].lines[-1]
        assert line.text.startswith(start) and line.kind == (kind or "none")


def test_a_claim_that_they_are_equal_is_judged_as_that_and_told_by_what_was_seen():
    equal = Claim("a", "b", "J", 0.5, equal=True)
    said = made_of(arms(0.0, 8, 0.05, np.random.default_rng(2)), [equal]).sections[0].lines[-1]
    assert said.kind == "supported" and said.text.startswith("Supported: a and b differ in J")
    assert said.text.endswith("The claim was that they are about equal.")
    apart = made_of(arms(0.9, 8, 0.05, np.random.default_rng(2)), [equal]).sections[0].lines[-1]
    assert apart.kind == "contradicted" and apart.text.startswith("Contradicted: a is better than b")


@pytest.mark.parametrize("kl", [1.0, 3.0])
def test_a_difference_of_what_is_better_when_lower_says_who_has_more(kl):
    """Its sign is turned, so that it alone would be read the other way round."""
    rows = [row(arm, seed, 0.5, value) for arm, value in (("a", kl), ("b", 2.0)) for seed in range(6)]
    judgement = judge(rows, [Claim("a", "b", "kl", 0.1)])
    sign, more, ending = ("+1.000", "lower", "低い。") if kl < 2 else ("−1.000", "higher", "高い。")
    said = report(judgement).sections[0].lines[-1].text
    assert sign in said and said.endswith(f"Lower is better: a has the {more} value.")
    assert report(judgement, lang="ja").sections[0].lines[-1].text.endswith(f"aのほうが{ending}")
    assert "Lower is better" not in made_of(full(6)).markdown()


def test_claims_that_so_few_seeds_cannot_decide_say_so_first():
    rows = arms(0.3, 6, 0.02, np.random.default_rng(0))
    four = [dataclasses.replace(CLAIM, measure=name) for name in ("J", "reward", "kl", "distinct_2")]
    line = made_of(rows, four).sections[0].lines[0]
    assert line.kind == "warning" and line.text.startswith("For 4 of 4 claims no difference could have been shown")
    assert "with 6 seeds p is never under 0.125" in line.text and line.text.endswith("At least 8 seeds are needed.")
    assert "補正後のpが0.125を下回らない" in made_of(rows, four, lang="ja").sections[0].lines[0].text
    assert made_of(rows).sections[0].lines[0].kind == "supported"


def test_seeds_that_are_needed_are_told_only_where_they_are_more():
    """Five seeds can show nothing, so that more are needed however large the difference is."""
    rows = arms(0.3, 5, 0.02, np.random.default_rng(0))
    assert (
        "about 6 seeds are needed" in made_of(rows, [dataclasses.replace(CLAIM, margin=0.3)]).sections[0].lines[-1].text
    )
    spread = {"a": [1.23, -0.33] * 5, "b": [0.0] * 10}  # mean 0.45, sd 0.82: neither 0 nor surely under 0.9
    rows = [row(arm, seed, value) for arm, values in spread.items() for seed, value in enumerate(values)]
    said = made_of(rows, [Claim("a", "b", "reward", 0.9)]).sections[0].lines[-1].text
    assert said.startswith("Undecided") and "As many seeds would probably show a difference of 0.9;" in said


def test_what_makes_a_claim_doubtful_stands_before_its_verdict():
    changed = Note("changed", "THE SUITE WAS CHANGED: {count} {digests} {claim} {claims}", grave=True, count=2, **FIRST)
    rows = [*full(6), row("a", 9, 0.0, error="RuntimeError: gone", measures={})]
    judgement = judge(rows, [CLAIM], [changed], stated=False)
    for lang, said in (("en", "THE SUITE WAS CHANGED"), ("ja", "スイートが変更された")):
        lines = report(judgement, lang=lang).sections[0].lines
        kinds = [line.kind for line in lines]
        assert kinds == ["warning"] * 3 + ["supported"]
        assert said in lines[1].text
    assert "1 of 13 runs failed" in report(judgement).sections[0].lines[2].text
    assert "RuntimeError: gone" in report(judgement).html()


FIRST = {"digests": "x", "claim": "c", "claims": "d"}


# ---------------------------------------------------------------- what the rest holds
def test_a_report_has_all_that_a_reader_checks():
    suite = a_suite(match={"by": "episodes", "amount": 96})
    trials = [
        dataclasses.replace(one, arm=f"a #{number}", chosen={"ppo.learning_rate": rate})
        for number, rate in enumerate((0.1, 0.2))
        for one in full(2)
        if one.arm == "a"
    ]
    rows = [dataclasses.replace(one, chosen={"ppo.learning_rate": 0.2}) if one.arm == "a" else one for one in full(6)]
    made = report(judge(rows, suite.claims), suite, trials, {"toy": {"empty answer": 0.9}}, price=2.0)
    text, page, markdown = shown(made, 200), made.html(), made.markdown()
    for said in (
        *("one is better", suite.digest, "num_agents=1", "96 for each run", "ppo.learning_rate=0.2"),
        *("sd ", "n 6", "power at the margin", "seeds needed", "2 / 6", "seed 0 at 4, seed 1 at 4"),
        *("empty answer: 0.900 without any learning", "c0ffee", "torch 2.13.0", "taken"),
        *("1 processor hours", "costs 2.00", "costs 200.00", "All 16 runs of this report"),
    ):
        assert said in flat(text), said
        assert said in html.unescape(page).replace("<small>", " ").replace("</small>", "") or said in ("n 6",), said
        assert said.split("#")[0] in markdown.replace("\\", ""), said
    assert page.count("<svg") == 3  # reward, KL, and one against the other
    assert page.count('<path class="area') == 4 and page.count("<circle") == 12


def test_a_mean_of_fewer_seeds_says_so():
    rows = [
        dataclasses.replace(one, measures={k: v for k, v in one.measures.items() if k != "kl"})
        if one.seed == 0
        else one
        for one in full(6)
    ]
    table = next(section for section in made_of(rows).sections if section.title.startswith("What each")).tables[0]
    place = [name.split(" (")[0] for name in table.head].index("KL to the reference")
    assert table.rows[0][place][-1].endswith("n 5") and table.rows[0][1][-1].endswith("n 6")


def test_curves_are_of_the_iterations_that_all_runs_have():
    long, short = ({"iteration": list(range(n)), "reward": [float(t) for t in range(n)]} for n in (5, 3))
    rows = [dataclasses.replace(one, curves=short if one.seed else long) for one in full(6)]
    section = next(section for section in made_of(rows).sections if section.title == "Curves")
    assert section.charts[0].lines["a"] == ([0, 1, 2], [0.0, 1.0, 2.0])
    assert "those that all of them have" in section.lines[0].text


def test_costs_of_two_tasks_are_not_averaged():
    other = [dataclasses.replace(one, measures={**one.measures, "episodes": 10.0}) for one in full(6, task="other")]
    table = next(section for section in made_of([*full(6), *other]).sections if section.title == "Cost").tables[0]
    assert [(line[0], line[1]) for line in table.rows[::2]] == [("a on toy", "96"), ("a on other", "10")]


def test_answers_are_put_beside_each_other_by_prompt_not_by_place():
    rows = full(6)
    extra = {"prompt": "first", "before": "no", "after": "only a", "reward": [0.0, 0.5]}
    rows[0] = dataclasses.replace(rows[0], samples=[extra, *rows[0].samples])
    table = next(one for one in made_of(rows).sections if one.title.startswith("The same prompts")).tables[0]
    assert [line[0] for line in table.rows] == ["first", "say <i>it</i>"]
    assert table.rows[0][2][0] == "only a" and table.rows[0][3] == "–"
    assert table.rows[1][3][0] == "b\nsaid"


def test_settings_that_differ_without_a_suite_are_found_in_the_rows():
    rows = [
        dataclasses.replace(one, settings={**one.settings, "ppo": {"rate": 0.1 if one.arm == "a" else 0.2}, "seed": 1})
        for one in full(6)
    ]
    table = next(one for one in made_of(rows).sections if one.title.startswith("What differed")).tables[0]
    assert table.rows == [["a", "ppo.rate=0.1"], ["b", "ppo.rate=0.2"]]
    assert "No setting differs" in made_of(full(6)).markdown()


def test_a_frontier_has_its_hulls_and_its_points():
    suite = a_suite(
        frontier={"values": [0.1, 0.4]},
        claims=[{"better": "a", "than": "b", "measure": "hypervolume", "margin": 0.01}],
    )
    rows = [
        row(f"{arm} @ {value}", seed, gain + 0.01 * seed + 1 - value, kl=1 - value)
        for arm, gain in (("a", 0.3), ("b", 0.0))
        for value in (0.1, 0.4)
        for seed in range(6)
    ]
    rows[0] = dataclasses.replace(rows[0], error="gone", measures={})
    assert suite.frontier is not None
    curves = frontier_rows(rows, suite.frontier)
    made = report(judge(curves, suite.claims), suite, points=rows)
    section = next(one for one in made.sections if one.title.startswith("Reward against"))
    (chart,) = section.charts
    assert list(chart.lines) == ["a", "b"] and chart.lines["a"][0][0] == 0.0
    assert len(chart.dots["a"][0]) == 11 and len(chart.dots["b"][0]) == 12
    assert "100% of the mean points of b are beaten" in " ".join(line.text for line in section.lines)
    warned = [line.text for line in made.sections[0].lines if line.kind == "warning"]
    assert "with 5 seeds p is never under 0.0625" in warned[0] and "1 of 24 runs failed" in warned[1]
    assert made.colors["a @ 0.1"] == made.colors["a"] != made.colors["b"]


# ---------------------------------------------------------------- any rows
class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.scripts, self.handlers = 0, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.handlers += [name for name, value in attrs if name in ("src", "href") or (value or "").startswith("java")]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_rows_say_is_text_everywhere(lang):
    rows = [
        dataclasses.replace(
            one,
            arm=EVIL if one.arm == "a" else one.arm,
            samples=[{"prompt": EVIL, "before": EVIL, "after": EVIL, "reward": [0.0, 1.0]}],
            provenance={"git_commit": EVIL, "versions": {EVIL: EVIL}, "platform": EVIL},
            settings={EVIL: EVIL, "learner": one.arm},
        )
        for one in full(6)
    ]
    rows.append(row("c", 0, 0.0, error=EVIL, measures={}))
    made = made_of(rows, [Claim(EVIL, "b", "J", 0.1)], [EVIL], probes={"toy": {EVIL: 0.5}}, lang=lang)
    page, markdown, text = made.html(), made.markdown(), shown(made, 80)
    found = Tags(page)
    assert (found.scripts, found.handlers) == (1, [])
    assert "<script>alert" not in page and html.escape("<script>alert(1)</script>") in page
    assert not re.search("[\x1b\u202e]", page + markdown + text)
    assert "<script>" not in markdown and not re.search(r"(?<!\\)\]\(", markdown)
    for block in markdown.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("| "):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


@pytest.mark.parametrize("text", ["# a", "- a", "+ a", "1. a", "1) a", "> a", "=== ", "~~~", "a\n\n# b", "http://a.b"])
def test_markdown_begins_nothing_that_was_not_meant(text):
    written = verdict._mark(text)
    assert not re.match(r"#|[-+>=~]|\d+[.)]|\s", written) and "\n" not in written and "http:" not in written


def failing(rows):
    return [dataclasses.replace(one, error="gone", measures={}) if one.arm == "a" else one for one in rows]


ODD = {
    "one seed": lambda: full(1),
    "an arm failed": lambda: failing(full(5)),
    "no prompts": lambda: [
        dataclasses.replace(one, by_prompt={}, settings={}, provenance={}, inputs={}, measured={}) for one in full(5)
    ],
    "odd origins": lambda: [
        dataclasses.replace(one, provenance={"versions": 3, "git_commit": None}, inputs={"task": "x"})
        for one in full(5)
    ],
    "two tasks": lambda: [*full(5), *full(5, task="other")],
    "twelve arms": lambda: [one for n in range(6) for one in full(5, ("a" * (n + 1), "b" * (n + 1)))],
    "names": lambda: full(5, ("a", "b @ 1")) + full(5, ("名前" * 30, "b")),
    "numbers": lambda: [
        dataclasses.replace(one, measures={**one.measures, "J": 1e12 * one.seed, "kl": 1e-9, "reward": -5.0})
        for one in full(5)
    ],
}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", ODD)
def test_it_survives_what_rows_can_be(kind, lang):
    made = made_of(ODD[kind](), lang=lang)
    assert not re.search(r"\bnan\b|\binf\b", made.markdown())
    for width in (40, 80, 200):
        for line in shown(made, width).splitlines():
            assert Console(width=width).measure(line).maximum <= width
    page = made.html()
    assert page.count("<section") == page.count("</section") >= 4
    arm_names = {name for one in ODD[kind]() for name in [one.arm]}
    assert all(html.escape(name) in page for name in arm_names)


def test_twelve_arms_are_told_apart():
    made = made_of(ODD["twelve arms"]())
    assert sorted(made.colors.values()) == list(range(12))
    assert made.html().count('class="line agent-0 second"') == 2


def test_a_page_asks_the_network_for_nothing():
    page = made_of(full(5)).html()
    assert "http" not in page and "src=" not in page and "url(" not in page and "@import" not in page


def test_a_terminal_that_cannot_write_japanese_gets_english():
    made = made_of(full(6), lang="ja")
    assert "Supported: a is better than b" in flat(shown(made, 80, "ascii"))
    assert "支持される" in shown(made, 80, "utf-8") and shown(made, 80, "ascii").isascii()


# ---------------------------------------------------------------- words
def test_both_languages_say_the_same_things():
    for key, pair in words.WORDS.items():
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in pair]
        assert fields[0] == fields[1], key
        assert JAPANESE.search(pair[1]) or key in ("p", "on", "comma", "with unit"), key


def test_every_measure_and_unit_has_a_japanese_name():
    assert set(words.MEASURES) == set(MEASURES)
    assert all(JAPANESE.search(name) for name in words.MEASURES.values())
    assert {measure.unit for measure in MEASURES.values()} - {"", "FLOPs"} <= set(words.UNITS)
    assert words.measure_title("ja", "reward/fluency") == "fluency（報酬の項）"
    assert words.measure_title("ja", "reward_at_kl/2") == "KLが2 natでの報酬"


def test_every_phrase_is_used_and_every_note_is_translated():
    folder = Path(inspect.getfile(verdict)).parent
    source = "".join(inspect.getsource(module) for module in (conclusion, evidence, parts, verdict))
    source += (folder / "templates" / "verdict.html.j2").read_text()
    made_up = ("match ", "verdict ", "seen ", "split ", "of ", "digests ")
    for key in words.WORDS:
        assert f'"{key}"' in source or key.startswith(made_up), key
    referee = folder.parent / "referee"
    notes = set(re.findall(r'Note\("([^"]+)"', "".join(path.read_text() for path in referee.glob("*.py"))))
    assert notes - {"seeds"} == set(words.NOTES)  # "seeds" is of an example


def test_notes_about_rows_are_said_in_japanese():
    few = [dataclasses.replace(one, provenance={**one.provenance, "git_commit": str(one.seed)}) for one in full(3)]
    section = made_of(few[:-1], lang="ja").sections[1]
    assert section.title == "注意" and len(section.lines) == 3
    assert all(JAPANESE.search(line.text) for line in section.lines)
