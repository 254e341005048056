"""Transcripts for people: as lines of text, and as one HTML page with a heat map over the tokens.

One idea: what an agent wrote is shown token by token, and each token carries its own numbers
(log-prob, KL, reward, value, advantage where known), so that what a model was paid for can be seen.
A page is one file: no network, no other file. Texts of models are hostile until escaped: HTML is
autoescaped, control characters never reach a terminal.

Nothing is computed here but sums and colour scales; the input is the plain data of
`coevo_env.game.transcript`, in which any number may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any

__all__ = [
    "ansi",
    "episode_view",
    "fragment",
    "heat_color",
    "html",
    "joint",
    "number",
    "scales_of",
    "script",
    "style",
]

Transcript = Mapping[str, Any]

METRICS = (
    ("kl", "KL", "KL estimate at the token, nats: how far the agent moved from its reference model"),
    ("shaping", "KL reward", "what the KL shaping paid for the token"),
    ("return", "Return", "what was paid from this token to the end of the turn: KL rewards, and the team reward"),
    ("logprobs", "Log-prob", "log-probability of the token when it was sampled, nats"),
    ("values", "Value", "the agent's own estimate of the reward to come"),
    ("advantages", "Advantage", "how much better than expected the token turned out"),
)
"""What tokens can be coloured by: key, label, explanation."""

NUMBERS = (
    ("logprobs", "log-prob"),
    ("ref_logprobs", "reference"),
    ("kl", "KL"),
    ("shaping", "KL reward"),
    ("reward", "reward"),
    ("return", "return"),
    ("values", "value"),
    ("advantages", "advantage"),
)
"""What a token says when it is pointed at."""


MOST_TOKENS = 4096
"""Of a turn that are shown one by one; of a longer one the beginning is."""


# ---------------------------------------------------------------- text
def ansi(transcript: Transcript, color: bool = False) -> str:
    """One episode as lines of text.

    Args:
        transcript: See `coevo_env.game.transcript`; an unfinished episode, or one with missing
            numbers, is fine.
        color: Adds terminal colours: the background of each token is its KL, blue above zero and
            orange below, as a last line says. Text on it is black, so that it can be read on any
            terminal.

    >>> turn = {"agent": "llm1", "role": "pioneer", "text": "fine", "tokens": [4, 0]}
    >>> turn |= {"kl": [0.5, 0.0], "task_reward": 1.0, "team_reward": 2.0}
    >>> episode = {"task": "toy", "episode": 3, "split": "train", "prompt_index": 0}
    >>> print(ansi({**episode, "prompt": "a day", "turns": [turn]}))
    toy · episode 3 · train prompt 0
      prompt          a day
      llm1 (pioneer)  fine
                      task +1.000 · team +2.000 · KL 0.500 nats · 2 tokens
    """

    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color and text else text

    scales = scales_of([transcript])
    episode = episode_view(transcript, scales)
    labels = [f"{turn['agent']} ({turn['role']})" for turn in episode["turns"]]
    width = max(map(len, ["prompt", *labels]))

    def block(label: str, text: str, code: str = "1") -> list[str]:
        first, *rest = text.split("\n")
        return [
            f"  {paint(code, label)}{' ' * (width - len(label))}  {first}".rstrip(),
            *(f"  {'':{width}}  {line}".rstrip() for line in rest),
        ]

    lines = [paint("2", " · ".join(episode["where"]))]
    lines += block("prompt", episode["prompt"], "2")
    if episode["answer"] is not None:
        lines += block("answer", episode["answer"], "2")
    for label, turn in zip(labels, episode["turns"], strict=True):
        text = turn["text"]
        if color and turn["tokens"]:
            text = joint(
                [_painted(token["shown"], token["heat"].get("kl")) for token in turn["tokens"]], turn["spaced"]
            )
        lines += block(label, text)
        if turn["facts"]:
            lines += block("", paint("2", " · ".join(" ".join(fact) for fact in turn["facts"])))
    if color and "kl" in scales:
        ramp = "".join(_painted(" ", share / 4) or " " for share in range(-4, 5))
        most = number(scales["kl"], sign=False)
        lines += block("", f"KL of a token  −{most} {ramp} +{most} nats")
    return "\n".join(lines)


def _painted(shown: str, heat: float | None) -> str:
    """A token on a light background of its own with dark text, which suits light and dark
    terminals."""
    if not heat:
        return shown
    red, green, blue = heat_color(heat)
    return f"\x1b[38;2;20;20;20;48;2;{red};{green};{blue}m{shown}\x1b[0m"


def heat_color(heat: float) -> tuple[int, int, int]:
    """Red, green and blue behind dark text for a number from -1 (orange) to 1 (blue)."""
    full, share = (104, 170, 232) if heat > 0 else (244, 158, 76), 0.2 + 0.8 * abs(heat)
    red, green, blue = (round(240 + (part - 240) * share) for part in full)
    return red, green, blue


def joint(pieces: list[str], spaced: bool) -> str:
    """Tokens as one text, with spaces between them where they have none of their own."""
    return (" " if spaced else "").join(pieces)


_INVISIBLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _plain(text: str) -> str:
    """Text without control characters, so that a response can neither steer a terminal nor turn the
    direction of the text around it."""
    return _INVISIBLE.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"  # the picture of a control character


# ---------------------------------------------------------------- HTML
def html(transcripts: Sequence[Transcript], title: str = "Transcripts") -> str:
    """One self-contained page of episodes, with a heat map over the tokens.

    Args:
        transcripts: See `coevo_env.game.transcript`; they share one colour scale per metric.
        title: Heading of the page.

    Returns:
        A whole HTML document. It refers to nothing outside itself, follows the reader's light or
        dark theme and can be used by keyboard.
    """
    from markupsafe import Markup

    return _template("page.html.j2").render(
        title=title,
        body=Markup(fragment(transcripts)),
        style=Markup(style()),
        script=Markup(script()),
        count=len(transcripts),
    )


def fragment(transcripts: Sequence[Transcript], agents: Sequence[str] | None = None) -> str:
    """The episodes and the choice of metric, to be put into a page that also holds `style()` and,
    once, `script()`. Agents have the colours of their places in `agents`, by default those that
    speak here, `llm2` before `llm10`."""
    scales = scales_of(transcripts)
    known = [
        {"key": key, "label": label, "help": text, "scale": number(scales[key], sign=False, digits=2)}
        for key, label, text in METRICS
        if key in scales
    ]
    here = {str(turn.get("agent", "")) for transcript in transcripts for turn in transcript.get("turns", [])}
    names = list(dict.fromkeys([*(agents or ()), *sorted(here, key=lambda name: (len(name), name))]))
    episodes = [
        episode_view(transcript, scales, {name: i for i, name in enumerate(names)}) for transcript in transcripts
    ]
    return _template("transcripts.html.j2").render(episodes=episodes, metrics=known)


def style() -> str:
    """The style sheet of pages."""
    return _resource("style.css")


def script() -> str:
    """The script of pages: pointing at tokens, and moving among them by arrow keys. Nothing of a
    transcript is ever put into it."""
    return _resource("tokens.js")


def number(value: float | None, *, sign: bool = True, digits: int = 3, tiny: bool = True) -> str:
    """A number as text: a typographic minus, a fixed number of decimals, few of them where it is
    large, and powers of ten where it is `tiny`.

    >>> number(-0.5), number(12345.6, sign=False), number(None)
    ('−0.500', '12,346', '–')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if tiny and 1e-6 <= size < 0.5 * 10**-digits:
        text = f"{size:.1e}".replace("-", "−")
    else:
        text = f"{size:,.0f}" if size >= 1000 else f"{size:.{1 if size >= 100 else digits}f}"
    zero = not text.strip("0.")
    return ("−" if value < 0 and not zero else "+" if sign and not zero else "") + text


# ----------------------------------------------------------- from plain data to what templates show
def episode_view(
    transcript: Transcript, scales: Mapping[str, float], colors: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """An episode as words, facts and tokens with the heat of their numbers, each from -1 to 1.

    Args:
        transcript: As it is; any number may be missing.
        scales: For each metric the value at which the heat is 1, see `scales_of`.
        colors: The place of each agent among the colours.
    """
    where = [
        str(transcript[key]) if key == "task" else f"{key} {transcript[key]}"
        for key in ("task", "iteration", "episode")
        if key in transcript
    ]
    if transcript.get("prompt_index") is not None:
        where.append(f"{transcript.get('split', '')} prompt {transcript['prompt_index']}".strip())
    turns = [
        _turn(turn, scales, (colors or {}).get(str(turn.get("agent", "")), 0)) for turn in transcript.get("turns", [])
    ]
    answer = transcript.get("answer")
    return {
        "where": where,
        "prompt": _plain(str(transcript.get("prompt", ""))),
        "answer": None if answer is None else _plain(str(answer)),
        "turns": turns,
    }


def _turn(turn: Mapping[str, Any], scales: Mapping[str, float], color: int) -> dict[str, Any]:
    ids = list(turn.get("tokens") or [])
    pieces = list(turn.get("pieces") or [])
    pieces += [str(i) for i in ids[len(pieces) :]]
    text, context = _plain(str(turn.get("text") or "")), turn.get("context")
    series = {key: _series(turn, key) for key in dict.fromkeys([key for key, *_ in (*NUMBERS, *METRICS)])}
    tokens = []
    for position, (token, piece) in enumerate(zip(ids[:MOST_TOKENS], pieces, strict=False)):
        row = {
            key: values[position]
            for key, values in series.items()
            if position < len(values) and _finite(values[position])
        }
        told = [("token", str(token)), *((label, number(row[key])) for key, label in NUMBERS if key in row)]
        heat = {
            key: round(max(-1.0, min(1.0, row[key] / scales[key])), 3)
            for key, _, _ in METRICS
            if key in row and key in scales
        }
        tokens.append(
            {"shown": _shown(piece), "told": told, "heat": heat, "mark": bool(re.fullmatch(r"\s*<[^<>\s]*>\s*", piece))}
        )
    facts = [
        (name, number(turn[key]))
        for key, name in (("task_reward", "task"), ("team_reward", "team"))
        if turn.get(key) is not None
    ]
    terms = turn.get("terms") or {}
    if len(terms) > 1:
        facts += [(str(name), number(value)) for name, value in terms.items()]
    kl = [value for value in series["kl"] if _finite(value)]
    if kl:
        facts.append(("KL", f"{number(math.fsum(kl), sign=False)} nats"))
    if ids:
        facts.append(
            (
                str(len(ids)),
                ("token" if len(ids) == 1 else "tokens") + (", cut at the budget" if turn.get("cut") else ""),
            )
        )
    if (more := len(ids) - MOST_TOKENS) > 0:
        facts.append((f"{more:,}", "of them not shown"))
    words = " " in text.strip() or pieces[:1] == [
        text
    ]  # behind a piece that is all of the text stands, if anything, EOS
    spaced = len(pieces) > 1 and words and not any(re.match(r"\s", piece) for piece in pieces[1:])
    return {
        "agent": _plain(str(turn.get("agent", "?"))),
        "role": _plain(str(turn.get("role", "?"))),
        "text": text,
        "context": None if context is None else _plain(str(context)),
        "tokens": tokens,
        "facts": facts,
        "spaced": spaced,
        "color": color % 6,
    }


def _series(turn: Mapping[str, Any], key: str) -> list[Any]:
    if key == "return":  # the words that earned the reward, and not the KL that they cost alone
        paid = [value if _finite(value) else 0.0 for value in _series(turn, "reward")]
        return list(accumulate(reversed(paid)))[::-1]
    if key != "reward":
        return list(turn.get(key) or [])
    ids, shaping, team = turn.get("tokens") or [], turn.get("shaping"), turn.get("team_reward")
    if not ids or (not shaping and team is None):
        return []
    rewards = [*shaping] if shaping else [0.0] * len(ids)
    if team is not None and len(rewards) == len(ids) and _finite(rewards[-1]):
        rewards[-1] += team
    return rewards


def scales_of(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """For each metric that any token knows: the value at which colour is full, the 95th percentile
    of what there is."""
    scales = {}
    for key, _, _ in METRICS:
        sizes = sorted(
            abs(v) for t in transcripts for turn in t.get("turns", []) for v in _series(turn, key) if _finite(v)
        )
        if sizes:
            scales[key] = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))] or sizes[-1] or 1.0
    return scales


def _shown(piece: str) -> str:
    """The text of a token: line breaks and what cannot be seen get a sign of their own."""
    return _plain(piece.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")) or "∅"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("coevo_env", "view/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _resource(name: str) -> str:
    return (files("coevo_env") / "view" / "templates" / name).read_text(encoding="utf-8")
