"""Numbers as people and models write them: "$1,200.50", "9{,}500", "10 %", "\\boxed{72}", "72.".

One idea: a number is found in a text after the marks of typesetting have gone, and a gold answer
may have a unit behind its number. What is not one number is None and never a part of it.

A per cent sign is a unit: "10%" is 10. Fractions ("3/4") are text, because "24/4 = 6" ends with
one number and not with two. So are powers, products and words of scale ("5²", "2 ½", "5 million"):
where a response is searched, such a number is found whole, and equals no other.
"""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["find_numbers", "gold_number", "parse_number"]

_SMALL = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u207f\u2080-\u2089\u2150-\u215e"
"""Powers, indices and vulgar fractions, which are one number with what stands before."""
_SCALES = (
    r"(?:hundred|thousand|thou|[a-z]*illion|[a-z]*illiard|dozen|lakh|lac|crore|score|halve|third|quarter|fourth|fifth|"
    r"sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|[a-z]*illionth)s?|half|gross|k|bn|mn|mln|tn|trn"
)
"""Words behind a number that make another number of it."""
_OPERATIONS = (
    r"or|and|of|pi|squared|cubed|factorial|mod|modulo|minus|plus|times|over|power|choose|divided|multiplied|root|sqrt|"
    r"below|under|less|fewer|more|negative|short|before|ago|bc|bce"
)
"""Words behind a number that may change what it is."""
# One number: an optional sign that is not a minus between operands ("5-3" holds 5 and 3), an
# optional currency sign, digits with or without thousands separators, decimals, an exponent.
_NUMBER = re.compile(
    r"(?:(?<![\w)\].])[-−–])?[$€£]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?:[eE][-+]?\d{1,3}(?!\w|\.\d))?"
    # What makes another number of it belongs to it, and then it is not one that can be compared.
    rf"(?:[ \u00a0]?[{_SMALL}]+|[ \u00a0-](?i:{_SCALES})\b)?",
    re.ASCII,
)
_PLAIN = re.compile(r"[-−–$€£\d,.]+(?:[eE][-+]?\d+)?", re.ASCII)
_TYPESET = (
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|[\u2009\u202f])(?=\d{3}(?!\d))"), ","),  # 9{,}500, 10,\!080, 9\,500
    (re.compile(r"\\([$%])"), r"\1"),  # \$18, 10\%
    (re.compile(r"\\text(?:bf|rm|it)?\{([^{}]*)\}|\\math(?:rm|bf|it)\{([^{}]*)\}"), r"\1\2"),
)
_WRAPPED = (
    re.compile(r"#{2,}\s*(.*)", re.DOTALL),
    re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL),
    re.compile(r"\$\$(.+)\$\$|\$(.+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL),
    re.compile(r"\*{1,2}(.+?)\*{1,2}", re.DOTALL),
)
_PERCENT = re.compile(r"\s*%$")
_CURRENCY = re.compile(r"^[$€£]\s*(?=[-−–.\d])|(?<=\d)\s*[€£$]$")
_UNIT = re.compile(
    rf"(?!.*\b(?i:{_SCALES}|{_OPERATIONS})\b)"  # more than one number, or another
    r"(?!\s*(?:[^\W\d_ghmlsLJNWV]|[^\W\d_]!)(?!\w))"  # of letters alone these are units
    r"(?:\s*[°/]\s*[^\W\d_]|\s+[^\W\d_]|(?<=\d)(?!(?:st|nd|rd|th)\b)[^\W\d_]{2})"
    r"(?:[^\W\d_]|(?<=[^\W\d_])[\u00b2\u00b3]|[\s.,;:/'’()°·-])*",  # no digit, sign or fraction
    re.DOTALL,
)


def plain(text: str) -> str:
    """The text without the marks of typesetting in and around its numbers.

    >>> plain(r"9{,}500"), plain(r"10\\,000")
    ('9,500', '10,000')
    """
    if "\\" in text or "{" in text or "\u2009" in text or "\u202f" in text:
        for pattern, instead in _TYPESET:
            text = pattern.sub(instead, text)
    return text


def find_numbers(text: str) -> list[str]:
    """All numbers of a text, as it writes them but for typesetting."""
    return _NUMBER.findall(plain(text))


def parse_number(text: str) -> Decimal | None:
    """The number that `text` is, or None if it is not one number; "$1,200.50", "−3", "10 %",
    "#### 72." and "9{,}500" are numbers.

    >>> parse_number("$1,200.50"), parse_number("about 3"), parse_number(r"\\boxed{72}.")
    (Decimal('1200.50'), None, Decimal('72'))
    """
    text = _PERCENT.sub("", _bare(text))
    text = _CURRENCY.sub("", text).strip()
    match = _NUMBER.fullmatch(text)
    return _decimal(match.group()) if match and _PLAIN.fullmatch(match.group()) else None


def gold_number(text: str) -> Decimal | None:
    """The number of a gold answer, which may have a unit behind it, or None.

    >>> gold_number("72 apples"), gold_number("$18/hour"), gold_number("3 or 4")
    (Decimal('72'), Decimal('18'), None)
    """
    if (number := parse_number(text)) is not None:
        return number
    text = _CURRENCY.sub("", _bare(text))
    match = _NUMBER.match(text)
    if match and _PLAIN.fullmatch(match.group()) and _UNIT.fullmatch(text, match.end()):
        return _decimal(match.group())
    return None


def _bare(text: str) -> str:
    """Without what stands around an answer: marks, boxes, emphasis and the full stop."""
    text = plain(text).strip()
    before = None
    while text != before:
        before = text
        for pattern in _WRAPPED:
            if match := pattern.fullmatch(text):
                text = next(group for group in match.groups() if group is not None).strip()
        if text.endswith((".", ",", ";")):
            text = text[:-1].strip()
    return text


def _decimal(text: str) -> Decimal:
    return Decimal(re.sub(r"[,$€£]", "", text).replace("−", "-").replace("–", "-"))
