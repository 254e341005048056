"""Transcripts as text and as pages: every token is there, nothing of a transcript is ever executed,
nothing is fetched."""

import re
from html.parser import HTMLParser

import pytest

from coevo_env.faces.batch import BatchEnv
from coevo_env.testing import tiny_lm
from coevo_env.view.render import ansi, fragment, html, number, script, style

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"' onmouseover=\"alert(2)"


def turn(**changes):
    """A turn of three tokens, the last one EOS."""
    base = {
        "seat": 0,
        "role": "pioneer",
        "agent": "llm1",
        "text": "so good",
        "context": "a day was",
        "cut": False,
        "tokens": [7, 12, 0],
        "pieces": ["so", " good", "<eos>"],
        "terms": {"mood": 0.5},
        "task_reward": 0.5,
        "team_reward": 0.75,
        "logprobs": [-1.5, -0.25, 0.0],
        "ref_logprobs": [-2.0, -0.25, -0.5],
        "kl": [0.5, 0.0, 0.5],
        "shaping": [-0.05, 0.0, -0.05],
        "values": None,
        "advantages": None,
    }
    return {**base, **changes}


def episode(*turns, **changes):
    base = {
        "episode": 3,
        "task": "sentiment",
        "split": "train",
        "prompt_index": 9,
        "prompt": "a day was",
        "answer": None,
    }
    return {**base, "turns": list(turns) or [turn()], **changes}


class Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tokens, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "span" and re.match(r"t\b", attributes.get("class") or ""):
            self.tokens.append({**attributes, "shown": ""})

    def handle_data(self, data):
        self.text += data
        if self.tokens and self.tags[-1][1].get("title") == self.tokens[-1]["title"] and not self.tokens[-1]["shown"]:
            self.tokens[-1]["shown"] = data


# ---------------------------------------------------------------- pages
def test_every_token_is_shown_with_its_numbers():
    page = Page(html([episode(turn(values=[0.1, 0.2, 0.3], advantages=[1.0, -1.0, 0.5]))]))
    assert [token["shown"] for token in page.tokens] == ["so", " good", "<eos>"]
    told = dict(line.split(": ") for line in page.tokens[0]["title"].split("\n"))
    assert told == {
        "token": "7",
        "log-prob": "−1.500",
        "reference": "−2.000",
        "KL": "+0.500",
        "KL reward": "−0.050",
        "reward": "−0.050",
        "return": "+0.650",
        "value": "+0.100",
        "advantage": "+1.000",
    }
    last = dict(line.split(": ") for line in page.tokens[2]["title"].split("\n"))
    assert last["reward"] == "+0.700"  # -0.05 + the team reward 0.75


def test_heat_is_signed_and_within_one():
    tokens = Page(html([episode()])).tokens
    styles = [dict(part.split(":") for part in token["style"].strip(";").split(";")) for token in tokens]
    assert [float(row["--kl"]) for row in styles] == [1.0, 0.0, 1.0]
    assert [float(row["--shaping"]) for row in styles] == [-1.0, 0.0, -1.0]
    assert all(-1 <= float(value) <= 1 for row in styles for value in row.values())
    assert "--values" not in tokens[0]["style"]


def test_words_that_earned_the_reward_are_not_painted_as_cost():
    """Each token is coloured by what is still paid from it on: here -0.05, 0 and -0.05 + 0.75."""
    tokens = Page(html([episode()])).tokens
    styles = [dict(part.split(":") for part in token["style"].strip(";").split(";")) for token in tokens]
    told = [dict(line.split(": ") for line in token["title"].split("\n"))["return"] for token in tokens]
    assert told == ["+0.650", "+0.700", "+0.700"]
    assert [float(row["--return"]) > 0.9 for row in styles] == [True] * 3


def contrast(one, other):
    """Of two colours (R, G, B), by WCAG 2.2."""

    def luminance(color):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (p / 255 for p in color)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_token_can_be_read_on_every_heat(theme):
    """Also <eos>: its colour is that of the text, on the card or on full heat."""
    block = style().split(":root {")[1 + theme].split("}")[0]
    ink, card = (
        [int(re.search(rf"--{name}: #(\w+)", block)[1][i : i + 2], 16) for i in (0, 2, 4)] for name in ("ink", "card")
    )
    full = float(re.search(r"--full: ([.\d]+)", block)[1])
    assert re.search(r"\.mark \{ color: var\(--ink\)", style())
    assert contrast(ink, card) >= 4.5
    for name in ("plus", "minus"):
        heat = [int(part) for part in re.search(rf"--{name}: ([\d ]+)", block)[1].split()]
        assert contrast(ink, [full * h + (1 - full) * c for h, c in zip(heat, card, strict=True)]) >= 4.5


def test_the_heat_of_a_terminal_has_a_legend_and_can_be_read():
    text = ansi(episode(turn(kl=[0.5, -0.5, 0.1])), color=True)
    assert "KL of a token  −0.500" in text.split("\n")[-1] and "+0.500 nats" in text.split("\n")[-1]
    for front, back in re.findall(r"38;2;([\d;]+);48;2;([\d;]+)m", text):
        assert contrast([int(p) for p in front.split(";")], [int(p) for p in back.split(";")]) >= 4.5
    assert "KL of a token" not in ansi(episode())


def test_text_of_models_is_never_markup():
    nasty = turn(
        text=EVIL,
        context=EVIL,
        agent=EVIL,
        role=EVIL,
        pieces=[EVIL, "</style>", "{{ 7*7 }}"],
        terms={EVIL: 1.0, "b": 0.0},
    )
    text = html([episode(nasty, prompt=EVIL, answer=EVIL, task=EVIL)], title=EVIL)
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert [token["shown"] for token in page.tokens] == [EVIL, "</style>", "{{ 7*7 }}"]
    assert page.text.count(EVIL) >= 7


def test_a_page_refers_to_nothing_outside_itself():
    text = html([episode()])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in Page(text).tags)


def test_missing_numbers_are_left_out():
    blank = turn(
        **dict.fromkeys(
            (
                "logprobs",
                "ref_logprobs",
                "kl",
                "shaping",
                "values",
                "advantages",
                "task_reward",
                "team_reward",
                "context",
            )
        )
    )
    text = html([episode(blank)])
    page = Page(text)
    assert len(page.tokens) == 3
    assert page.tokens[0]["title"] == "token: 7"
    assert 'type="radio"' not in text
    partly = html([episode(turn(kl=[0.5, float("nan"), None], logprobs=[-1.0]))])
    assert "KL" not in Page(partly).tokens[1]["title"].replace("KL reward", "")
    assert "nan" not in partly


def test_an_unfinished_or_empty_episode_is_shown():
    assert "No episodes" in html([])
    assert "a day was" in html([episode(turn(tokens=[], pieces=[], text=""))])
    assert "a day was" in html([{"prompt": "a day was", "turns": []}])
    assert "llm1" in html([{"turns": [{"agent": "llm1", "tokens": [4]}]}])


def test_what_cannot_be_seen_gets_a_sign():
    page = Page(html([episode(turn(pieces=["\n", "", "\x1b[31m"]))]))
    assert [token["shown"] for token in page.tokens] == ["⏎", "∅", "␛[31m"]
    assert "\u202e" not in html([episode(prompt="a\u202eb")])


def test_tokens_without_spaces_are_set_apart_and_others_are_not():
    words = turn(pieces=["so", "good", "<eos>"])
    assert 'class="tokens spaced"' in html([episode(words)])
    assert 'class="tokens spaced"' not in html([episode()])
    assert 'class="tokens spaced"' in html(
        [episode({"agent": "llm1", "text": "2", "tokens": [2, 0], "pieces": ["2", "0"]})]
    )
    assert 'class="tokens spaced"' not in html(
        [episode({"agent": "llm1", "text": "20", "tokens": [2, 0], "pieces": ["2", "0"]})]
    )


def test_keyboard_reaches_the_first_token_of_each_turn_and_every_metric():
    page = Page(html([episode(turn(), turn(agent="llm2", role="observer"))]))
    assert [token["tabindex"] for token in page.tokens] == ["0", "-1", "-1"] * 2
    radios = [attributes["id"] for tag, attributes in page.tags if tag == "input"]
    labels = [attributes["for"] for tag, attributes in page.tags if tag == "label"]
    assert radios == labels == ["heat-kl", "heat-shaping", "heat-return", "heat-logprobs"]


def test_parts_make_the_page():
    text = html([episode()])
    assert fragment([episode()]) in text
    assert style() in text
    assert script() in text


def test_a_real_batch_is_shown():
    lm = tiny_lm(5)
    game = BatchEnv(4, "toy", lm, seed=0)
    while (now := game.begin_turn()) is not None:
        drawn = lm.generate(now.contexts, now.max_new_tokens, now.sampling, now.uniforms())
        game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs)
    transcripts = game.transcripts()
    assert len(Page(html(transcripts)).tokens) == sum(len(t["tokens"]) for e in transcripts for t in e["turns"])
    assert "llm2" in ansi(transcripts[0])


# ---------------------------------------------------------------- text
def test_ansi_says_what_was_said_and_earned():
    lines = ansi(episode(turn(), turn(agent="llm2", role="observer", text="worse", cut=True))).split("\n")
    assert lines == [
        "sentiment · episode 3 · train prompt 9",
        "  prompt           a day was",
        "  llm1 (pioneer)   so good",
        "                   task +0.500 · team +0.750 · KL 1.000 nats · 3 tokens",
        "  llm2 (observer)  worse",
        "                   task +0.500 · team +0.750 · KL 1.000 nats · 3 tokens, cut at the budget",
    ]


@pytest.mark.parametrize("color", [False, True])
def test_a_response_cannot_steer_the_terminal(color):
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    text = ansi(episode(turn(text=evil, pieces=[evil, "a", "b"], agent=evil), prompt=evil), color=color)
    left = re.sub(r"\x1b\[[0-9;]*m", "", text) if color else text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", left)


def test_ansi_colours_only_when_asked():
    assert "\x1b" not in ansi(episode())
    assert re.sub(
        r"\x1b\[[0-9;]*m", "", ansi(episode(turn(pieces=["so", " good", ""], text="so good")), color=True)
    ).startswith("sentiment")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1.23456, "+1.235"),
        (-12.0, "−12.000"),
        (123.45, "+123.5"),
        (-54321.0, "−54,321"),
        (0.0001, "+1.0e−04"),
        (1e-09, "0.000"),
        (float("nan"), "not a number"),
        (float("-inf"), "−∞"),
        (None, "–"),
    ],
)
def test_numbers_as_text(value, text):
    assert number(value) == text
