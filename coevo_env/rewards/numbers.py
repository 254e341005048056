"""Numbers as people and models write them: "$1,200.50", "1 200", "9{,}500", "10 %", "\\boxed{72}".

One idea: all that is written as one is found as one, and is a number as a whole or is none. What
was found and is no number equals no other, and never counts as a part of itself.

- A number is digits, with a sign or currency before them, decimals behind a point, and an exponent
  ("1e3" is 1000). The minus may be any of Unicode's, the digits those of any script.
- Groups of three behind one kind of separator are one number: "1,234", "1 234", "1'234", "1_234".
- A per cent sign is a unit: "10%" is 10. A gold answer may have a unit behind its number.
- Found whole, and no number: fractions and quotients ("1/2", "24/4"; "24/4 = 6" ends with 6), all
  else that marks join without a space ("12:30", "1,5", "1.234,5", "1.2.3"), powers and roots
  ("5²", "2^3", "√4"), "±5", "0x1F", and words of scale ("2 ½", "5 million", "5k").
- Signs of operations stand between numbers: "5-3" and "2+3" hold two.
"""

from __future__ import annotations

import re
import unicodedata
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
_GROUPED = r"\d{1,3}(?P<mark>[,'_ ])\d{3}(?:(?P=mark)\d{3})*(?!\d)"
# One number, or what is written as one: an optional sign that is not a minus between operands
# ("5-3" holds 5 and 3), an optional currency sign, digits and what joins them, an exponent.
_NUMBER = re.compile(
    r"(?:(?<![\w)\].])-)?(?:[±∓√] ?)?[$€£]?"
    rf"(?:0[xXbBoO][\da-fA-F]+(?!\w)|{_GROUPED}|\d+|(?<![\w.])\.\d+|[a-zA-Z]\.\d+)"
    # What makes another number of it belongs to it, and then it is not one that can be compared.
    r"(?:[.,:'_]\d+| ?[/÷⁄∕] ?-?[$€£]?\d+)*(?:[eE][-+]?\d+(?:\.\d+|[a-zA-Z]\w*)?)?"
    rf"(?: ?\^ ?[\w{{(+-]+|\*\*\d+| \d+[/⁄∕]\d+| ?[{_SMALL}]+|[ -](?i:{_SCALES})\b|(?:[kKMBT]|bn|mn|mln|tn|trn)\b)?",
    re.ASCII,
)
_PLAIN = re.compile(rf"-?[$€£]?(?:(?:{_GROUPED}|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}})?", re.ASCII)
_TYPESET = (
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3}(?!\d))"), ","),  # 9{,}500, 10,\!080, 9\,500
    (re.compile(r"\\([$%])"), r"\1"),  # \$18, 10\%
    (re.compile(r"\\text(?:bf|rm|it)?\{([^{}]*)\}|\\math(?:rm|bf|it)\{([^{}]*)\}"), r"\1\2"),
    (re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|(?=\d))"), r"√\1"),
    (re.compile(r"\\[cdt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))"), r" \1\2/\3\4"),  # \frac{1}{2}
)
_SCRIPTS = str.maketrans(
    {"٫": ".", "٬": ",", "．": ".", "／": "/", "：": ":", "＄": "$", "％": "%", "’": "'", "ʼ": "'"}
    | dict.fromkeys("−–‐‑‒﹣－", "-")
    | dict.fromkeys("\u2009\u202f\u2007\u00a0", " ")
)
"""Marks of other scripts and widths, and what they mean."""
_SIGN = re.compile(r"(?:(?<==)|(?<== ))- (?=[$€£]?[\d.])")
"""The minus of "= - 3"; elsewhere a space behind it makes it a dash, an operation or a bullet."""
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
    """The text without the marks of typesetting in and around its numbers, and with the digits,
    minus signs and spaces of ASCII.

    >>> plain(r"9{,}500"), plain(r"10\\,000"), plain("−３")
    ('9,500', '10,000', '-3')
    """
    if "\\" in text or "{" in text:
        for pattern, instead in _TYPESET:
            text = pattern.sub(instead, text)
    if not text.isascii():
        text = re.sub("(?<=\\d)，(?=\\d{3}(?!\\d))", ",", text.translate(_SCRIPTS))
        text = re.sub(r"\d", lambda found: str(unicodedata.decimal(found[0])), text)
    return _SIGN.sub("-", text)


def find_numbers(text: str) -> list[str]:
    """All numbers of a text, as it writes them but for typesetting."""
    return [match[0] for match in _NUMBER.finditer(plain(text))]


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
    return Decimal(re.sub(r"[,$€£'_ ]", "", text))
