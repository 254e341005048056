"""Rewards: values by hand or by an oracle, and independence of the batch."""

import math
import re
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env import rewards
from coevo_env.assets.tfidf import TfidfClassifier
from coevo_env.errors import ConfigError, MissingExtraError, RewardError
from coevo_env.game.task import Prompt
from coevo_env.rewards import numbers, text


def test_lexicon_is_vaders_formula():
    # VADER: compound = s / sqrt(s^2 + 15); its lexicon gives "great" 3.1 and "awful" -2.0, and no
    # value to the other words.
    expected = [3.1 / math.sqrt(3.1**2 + 15), -2.0 / math.sqrt(2.0**2 + 15), 0.0]
    got = rewards.lexicon_sentiment(["this movie was"] * 3, ["great", " awful", ""])
    np.testing.assert_allclose(got, expected, atol=5e-5)  # it rounds to four decimals
    assert all(isinstance(value, float) for value in got)


def test_lexicon_reads_prompt_and_response_as_one_text():
    # "not" in the prompt negates "good" in the response.
    negated, plain = rewards.lexicon_sentiment(["it was not", "it was"], ["good", "good"])
    assert negated < 0 < plain


def test_lexicon_without_the_package_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    text._vader.cache_clear()
    with pytest.raises(MissingExtraError, match="pip install vaderSentiment"):
        rewards.lexicon_sentiment(["a"], ["b"])


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("", None, None),
        ("none here.", None, None),
        ("5-3 is 2", "5", "2"),
        ("x = -3.", "-3", "-3"),
        ("10-2=8", "10", "8"),
        ("It costs $1,002.50.", "$1,002.50", "$1,002.50"),
        ("1, 2, 3", "1", "3"),
        ("1,234,567", "1,234,567", "1,234,567"),
        (".5 or 0.75", ".5", "0.75"),
        ("(3)-4", "3", "4"),
        ("#### 72\n", "72", "72"),
    ],
)
def test_numbers_in_text(text, first, last):
    assert rewards.first_number(text) == first
    assert rewards.last_number(text) == last


@pytest.mark.parametrize(
    ("gold", "response", "expected"),
    [
        ("5", "5", 1),
        ("5", "The answer is 5.0.", 1),
        ("1200", "$1,200", 1),
        ("1,200", "1200.00", 1),
        ("-3", "−3", 1),
        ("5", "15", 0),
        ("5", "5 or 6", 0),
        ("5", "", 0),
        ("0.1", "0.10", 1),
        ("#### 72.", "so 72", 1),
        ("#### 10%", "It is 10%.", 1),
        ("10 %", "10", 1),
        ("9{,}500", "9500", 1),
        ("9500", r"which is $9{,}500$.", 1),
        ("10080", r"\boxed{10,\!080}", 1),
        (r"\boxed{72}", "72", 1),
        ("72 apples", "She has 72 apples.", 1),
        ("$18/hour", "$18 per hour", 1),
        ("18", "$18/hour", 1),
        ("72 apples", "27 apples", 0),
        ("10%", "0.1", 0),
        ("9{,}500", "500", 0),
        ("100", "It is 1e2.", 1),
        ("0.0025", "2.5e-3.", 1),
        ("-5", "It is –5", 1),
        ("5", "pages 3–5", 1),
        ("5", "5 million", 0),
        ("5", "5²", 0),
        ("2", "2 ½ cups", 0),
        ("5", "It is 5!", 1),
        ("3 m²", "3", 1),
    ],
)
def test_exact_answer_compares_numbers(gold, response, expected):
    assert rewards.exact_answer()([Prompt("q", answer=gold)], [response]) == [float(expected)]


AROUND = ["{}", "{}.", " {} ", "#### {}", "#### {}.", r"\boxed{{{}}}", "${}$", "**{}**", r"\({}\)"]
BEHIND = ["", "%", " %", r"\%", " apples", "/hour", " per hour", " km/h", "kg", r"\text{ cm}", "°C", " euros."]
FRONT = ["", "$", r"\$", "€"]


@given(
    st.decimals(-(10**7), 10**7, places=2) | st.integers(-(10**9), 10**9).map(Decimal),
    *(st.sampled_from(ways) for ways in (AROUND, FRONT, BEHIND, [",", "{,}", r",\!", r"\,", ""], ["-", "−"])),
)
def test_a_number_is_the_same_however_it_is_written(number, around, front, behind, thousands, minus):
    def written(value):
        digits = f"{abs(value):,}".replace(",", thousands)
        return around.format(f"{minus if value < 0 else ''}{front}{digits}{behind}")

    reward = rewards.exact_answer()
    gold, other = Prompt("q", answer=str(number)), Prompt("q", answer=str(number + 1))
    shown, shown_other = Prompt("q", answer=written(number)), Prompt("q", answer=written(number + 1))
    said = [f"It is {written(number)}", f"It is {number}"]
    assert reward([gold] * 2, said) == reward([shown] * 2, said) == [1.0, 1.0]
    assert reward([other] * 2, said) == reward([shown_other] * 2, said) == [0.0, 0.0]


# What is written, and the number that it is; None is one that no gold answer can equal.
WRITTEN = (
    {"1 234": 1234, "1,234": 1234, "1\u202f234": 1234, "1\u00a0234.5": 1234.5, "1'234": 1234, "1_234": 1234}
    | {"-3": -3, "−3": -3, "－３": -3, "x = - 3": -3, "$-3": -3, "-$3": -3, "１２３": 123, "٣": 3, "１，２３４": 1234}
    | {"1e3": 1000, "1E-3": 0.001, "3.": 3, ".5": 0.5, "$5": 5, "5$": 5, "50%": 50, "5 %": 5, "24/4=6": 6}
    | dict.fromkeys(["1/2", "1 / 2", "24/4", "2 1/2", "1⁄2", r"\frac{1}{2}", r"\dfrac12", r"2\frac{1}{2}", "$5/$2"])
    | dict.fromkeys(["1,2", "1,00,000", "12,34", "1,2345", "1.234,5", "1.234.567", "12:30", "1/2/2020", "5'10"])
    | dict.fromkeys(["2^3", "2**3", "10^{3}", r"\sqrt{16}", "√16", "±5", "0x1F", "1e1000", "1e3.5"])
    | dict.fromkeys(["5k", "$5M", "No.5"])
)


@pytest.mark.parametrize(("written", "value"), WRITTEN.items())
def test_what_is_written_as_one_number_is_that_number_and_no_part_of_it(written, value):
    parts = {match for size in (1, 2, 3, 4) for match in re.findall(rf"(?=(\d{{{size}}}))", numbers.plain(written))}
    golds = [part for part in sorted(parts) if value is None or Decimal(part) != Decimal(str(value))]
    for said in (written, f"It is {written}.", f"{written} "):
        for extract in ("last_number", "first_number")[: 1 if "=" in written else 2]:
            reward = rewards.exact_answer(extract)
            assert reward([Prompt("q", answer=gold) for gold in golds], [said] * len(golds)) == [0.0] * len(golds)
            if value is not None:
                assert reward([Prompt("q", answer=str(value))], [said]) == [1.0]
    if value is None:
        assert rewards.gold_number(written) is None


@pytest.mark.parametrize("gold", ["Paris", "3/4", "3 or 4", "12:30", "5 million", "1, 2", "5 ft 6 in"])
def test_a_gold_answer_that_no_number_can_equal_is_refused(gold):
    assert rewards.gold_number(gold) is None
    for extract in ("last_number", "first_number"):
        with pytest.raises(RewardError, match=r"is not one number, .*extract='text'"):
            rewards.exact_answer(extract)([Prompt("q", answer=gold)], [gold])
    assert rewards.exact_answer("text")([Prompt("q", answer=gold)], [f" {gold.upper()} "]) == [1.0]


OTHER = ["½", " ½", "²", "⁻³", "!", " trillion", " M", " B", " bn", " mn", " lakh", " crore", " thirds", " quarters",
         " pi", " π", "π", " x", " i", " squared", " factorial", " degrees below zero", " less than 3", " √", " × n",
         "^n", " to the power of n", " minus y", " ± z", "!!", "M", "k", " hundredths", " halves"]  # fmt: skip


@given(st.integers(0, 10**6), st.sampled_from(OTHER))
def test_what_makes_another_number_of_a_gold_answer_is_refused_and_of_a_response_is_another(number, behind):
    assert rewards.gold_number(f"{number}{behind}") is None
    if behind.strip() in {"½", "²", "⁻³", "trillion", "bn", "mn", "lakh", "crore", "thirds", "quarters", "halves"}:
        gold = Prompt("q", answer=str(number))
        assert rewards.exact_answer()([gold], [f"It is {number}{behind}."]) == [0.0]


@pytest.mark.parametrize(
    ("gold", "response", "expected"),
    [
        ("7 Rings", "7", 0),
        ("10 Downing Street", "10", 0),
        ("4 July", "4", 0),
        ("4 July", "4 JULY ", 1),
        ("007", "7", 0),
        ("007", "007", 1),
        ("0.5", ".5", 1),
        ("$5", "5%", 0),
        ("$5", "$5.00", 1),
    ],
)
def test_where_the_whole_text_counts_it_is_equal_or_the_same_number(gold, response, expected):
    assert rewards.exact_answer("text")([Prompt("q", answer=gold)], [response]) == [float(expected)]


def test_a_unit_in_a_response_is_not_ignored_where_all_of_it_counts():
    prompts = [Prompt("q", answer="5")] * 3
    assert rewards.exact_answer("text")(prompts, ["5 is wrong", "5", "5.0"]) == [0.0, 1.0, 1.0]


def test_exact_answer_extractors():
    prompt = Prompt("capital of France?", answer="Paris")
    assert rewards.exact_answer("text")([prompt] * 2, [" paris\n", "It is Paris"]) == [1.0, 0.0]
    assert rewards.exact_answer(lambda r: r.split()[-1] if r else None)([prompt] * 2, ["It is Paris", ""]) == [1.0, 0.0]
    assert rewards.exact_answer("first_number")([Prompt("2+3=", answer="5")], ["5\n4+4=8"]) == [1.0]
    with pytest.raises(ConfigError, match="Did you mean 'last_number'"):
        rewards.exact_answer("last_numbr")


@given(st.text(" \t\n\u00a0", max_size=4), st.text(max_size=4), st.sampled_from(["text", "last_number", str.strip]))
def test_no_response_equals_an_empty_answer(gold, response, extract):
    with pytest.raises(RewardError, match="is empty, so silence would be right"):
        rewards.exact_answer(extract)([Prompt("q", answer=gold)], [response])


def test_exact_answer_needs_an_answer():
    with pytest.raises(RewardError, match=r"Prompt\(text, answer="):
        rewards.exact_answer()(["2+3="], ["5"])


def test_regex_and_length():
    assert rewards.regex_reward("^A", hit=2.0, miss=-1.0)(["", ""], ["Ab", "bA"]) == [2.0, -1.0]
    with pytest.raises(ConfigError, match="not a regular expression"):
        rewards.regex_reward("(")
    assert rewards.length_reward(2)([""] * 4, ["", "a", "a b", "a b c d e"]) == [0.0, 0.5, 1.0, 0.0]
    with pytest.raises(ConfigError, match="at least 1 word"):
        rewards.length_reward(0)


@pytest.mark.parametrize("reward", [rewards.lexicon_sentiment, rewards.regex_reward("a"), rewards.length_reward(3)])
def test_lengths_must_agree(reward):
    with pytest.raises(ValueError, match="zip"):
        reward(["a", "b"], ["a"])


# ------------------------------------------------------------------------------------------- TF-IDF


def test_tfidf_by_hand(tmp_path):
    classifier = TfidfClassifier(["good", "bad", "good film"], [1.0, 2.0, 3.0], [0.5, -1.0, 2.0], 0.25)
    classifier.save(tmp_path)
    # "Good GOOD film": good twice -> 1 + ln 2; "good film" once -> 3. x = (1 + ln 2, 3); "film" and
    # "good good" are unknown.
    x = np.array([1 + math.log(2), 3.0])
    logit = (x @ [0.5, 2.0]) / math.hypot(*x) + 0.25
    expected = [logit, -1.0 + 0.25, 0.25]
    loaded = TfidfClassifier.load(tmp_path)
    np.testing.assert_allclose(loaded.logits(["Good GOOD film", "bad!", "a"]), expected, rtol=1e-12)
    reward = rewards.tfidf_reward(tmp_path, output="probability", separator=None)
    np.testing.assert_allclose(reward(["Good GOOD"], ["film"]), [1 / (1 + math.exp(-logit))], rtol=1e-12)
    centred = rewards.tfidf_reward(tmp_path, output="signed", centred=True, separator=None)
    assert centred(["bad"], [""]) == [0.0]


def test_tfidf_equals_scikit_learn():
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "a", "Élan", "über", "don't", "x_1", "42"]
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 12))) for _ in range(200)]
    labels = [int(text.count("good") > text.count("bad")) for text in texts]
    ours = TfidfClassifier.fit(texts, labels, max_terms=60, min_texts=3, c=2.0)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=60, min_df=3, sublinear_tf=True)
    oracle = LogisticRegression(C=2.0, max_iter=1000).fit(vectorizer.fit_transform(texts), labels)
    held_out = [" ".join(rng.choice([*words, "unknown"], size=8)) for _ in range(50)] + [
        "",
        "unknown",
        "GOOD. Good; über-plot",
    ]
    np.testing.assert_allclose(
        ours.logits(held_out), oracle.decision_function(vectorizer.transform(held_out)), atol=1e-9
    )


def test_tfidf_bad_files(tmp_path):
    with pytest.raises(ConfigError, match=r"classifier\.json"):
        TfidfClassifier.load(tmp_path)
    TfidfClassifier(["a b"], [1.0], [1.0], 0.0).save(tmp_path)
    whole = (tmp_path / "classifier.safetensors").read_bytes()
    (tmp_path / "classifier.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ConfigError, match="no TF-IDF classifier could be read"):
        TfidfClassifier.load(tmp_path)
    with pytest.raises(ConfigError, match="non-finite"):
        TfidfClassifier(["a b"], [1.0], [math.nan], 0.0)
    with pytest.raises(ConfigError, match="one of each per term"):
        TfidfClassifier(["a b"], [1.0, 2.0], [1.0], 0.0)


def test_import_is_light():
    import subprocess

    heavy = {"torch", "transformers", "sklearn", "vaderSentiment"}
    code = f"import sys, coevo_env.rewards, coevo_env.assets.store; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
