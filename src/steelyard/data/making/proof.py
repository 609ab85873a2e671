"""Does an answer that was made stand in its passage? Words and figures are compared; no model is asked. Pure.

The quote must stand in the passage word for word; so must every number and every name of question and answer.
English and Chinese alike. What is true but said otherwise is refused too: a row less is cheaper than a lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

QUOTE_CHARS = 8  # of white space and marks freed; a Chinese character counts as two
SUPPORT = 0.5  # of an answer's words that the passage or the question has
STEM = 5  # letters of a word that are compared: "returned" is "returns"
MARKS = re.compile(r"[*_`|#]+")  # of Markdown, which a quote may leave out
NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?:[.,:]\d+)*")
POINT = re.compile(r"(?m)^\s*\(?\d{1,2}[.)、](?=\s|\D)")  # the number of a point in a list
WORD = re.compile(r"[A-Za-z][A-Za-z0-9'’-]*")
HAN = re.compile(r"[\u3400-\u9fff]+")
TITLE = re.compile(r"[《「『“\"]([^》」』”\"\n]{2,40})[》」』”\"]")
SENTENCE = re.compile(r"(?:^|[.!?:;。！？：；\n•-])[\s\"'“(]*$")
LEANS = re.compile(
    r"\b(?:the|this|that|above|given|following) (?:passage|text|excerpt|paragraph|section|quote)\b"
    r"|\b(?:according to|in|of) (?:the|this) (?:passage|document|text|excerpt)\b|\bmentioned above\b"
    r"|(?:根据|依据|按照)?(?:上文|上述|下文|本文|这段|该段|以上|文中|本段|原文)(?:内容|文字|段落|话|中|所述)?",
    re.IGNORECASE,
)
COMMON = {"i", "a", "the", "yes", "no", "it", "if", "you", "we", "ok", "okay"}


@dataclass(frozen=True, slots=True)
class Made:
    """A question, its answer, and what the answer rests on."""

    question: str
    answer: str
    quote: str


def faults_of(made: Made, passage: str, headings: str = "") -> list[str]:
    """Why the row may not be taught; [] for one that stands in its passage."""
    if not all(part.strip() for part in (made.question, made.answer, made.quote)):
        return ["empty"]
    ground = f"{headings}\n{passage}"
    tests = {
        "quote_too_short": weight(plain(made.quote)) < QUOTE_CHARS,
        "quote_not_there": plain(made.quote) not in plain(passage),
        "quote_beside": not units(made.answer) & units(made.quote) and not is_yes_or_no(made.answer),
        "number_not_there": not numbers(f"{made.question}\n{made.answer}") <= numbers(ground),
        "name_not_there": not names_stand(made, ground),
        "unsupported": support(made.answer, f"{ground}\n{made.question}") < SUPPORT,
        "leans_on_passage": bool(LEANS.search(made.question)),
    }
    return [reason for reason, fails in tests.items() if fails]


REASONS = ("not_json", "empty", "quote_too_short", "quote_not_there", "quote_beside", "number_not_there",
           "name_not_there", "unsupported", "leans_on_passage", "asked_twice")  # fmt: skip


def plain(text: str) -> str:
    """Words in their order: white space is one space, marks of Markdown are none."""
    return " ".join(MARKS.sub(" ", text).split())


def weight(text: str) -> int:
    return sum(2 if c >= "\u2e80" else 1 for c in text)


def is_yes_or_no(answer: str) -> bool:
    return len(answer) < 6 or answer.casefold().startswith(
        ("yes", "no,", "no.", "是", "否", "不", "可以", "能")
    )


# ------------------------------------------------------------------ numbers and names


def numbers(text: str) -> set[str]:
    """1,000 and 1000 are one; a point's own number is none."""
    return {number.replace(",", "") for number in NUMBER.findall(POINT.sub(" ", text))}


def names_stand(made: Made, ground: str) -> bool:
    """Every name is a word of the passage; what stands in title marks stands there as written."""
    words = {word.casefold() for word in WORD.findall(ground)} | COMMON
    text = f"{made.question}\n{made.answer}"
    titles = all(plain(title) in plain(ground) for title in TITLE.findall(text))
    return titles and all(bare(name) in words or name.casefold() in words for name in names(text))


def bare(name: str) -> str:
    return re.sub(r"['’]s?$", "", name).casefold()


def names(text: str) -> Iterator[str]:
    """Words with a capital that no sentence begins with, codes, and Latin words in Chinese."""
    chinese = HAN.search(text) is not None
    for match in WORD.finditer(text):
        word = match[0]
        if word.casefold() in COMMON:
            continue
        inner = any(c.isupper() or c.isdigit() for c in word[1:])
        begins = SENTENCE.search(text[: match.start()]) is not None
        if inner or chinese or (word[0].isupper() and not begins):
            yield word


# ------------------------------------------------------------------ the rest of the words


def units(text: str) -> set[str]:
    """What carries meaning: stems of words of four letters or more, pairs of Chinese characters, numbers."""
    words = {word.casefold()[:STEM] for word in WORD.findall(text) if len(word) >= 4}
    pairs = {run[n : n + 2] for run in HAN.findall(text) for n in range(len(run) - 1)}
    return words | pairs | numbers(text)


def support(answer: str, ground: str) -> float:
    own = units(answer)
    return len(own & units(ground)) / len(own) if own else 1.0
