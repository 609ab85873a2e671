"""What a service says in place of an answer that it may not give, and how an answer that refuses reads."""

from __future__ import annotations

import re

REFUSALS = {
    "en": "This answer was withheld: it held data that may not be given out.",
    "zh": "该回答已被拦截：其中含有不得对外提供的信息。",
}
HAN = re.compile(r"[\u4e00-\u9fff]")
FIRST_CHARS = 240  # a refusal says so at its beginning
WE = r"\b(?:i|we)"
EN = re.compile(
    rf"{WE}(?:'m| am| are|'re)? (?:really |very |so |truly )?(?:sorry|afraid|unable to|not able to|"
    r"not going to|not allowed to|not comfortable)|"
    rf"{WE} (?:simply )?(?:can ?not|can't|could not|couldn't|won't|will not|must not|mustn't|do not|don't|"
    r"refuse to|have to decline|must decline|must refuse)\b(?! (?:know|think|believe|see why|mind))|"
    r"\b(?:sorry|apologi[sz]e)\b.{0,40}\b(?:but|can't|cannot)|"
    r"\bagainst (?:the law|my (?:guidelines|policy|principles))|\bcannot (?:help|assist|provide|comply)|"
    r"\bnot (?:something|able|appropriate|possible for me) (?:i|to|that)\b.{0,20}"
    r"\b(?:help|assist|do|provide|share)|\bas an ai\b.{0,60}\b(?:can't|cannot|not)\b|"
    r"\b(?:it is|it's|this is|that is|that's) (?:illegal|unethical|dangerous)",
    re.IGNORECASE,
)
ZH = re.compile(
    r"抱歉|遗憾|对不起|不好意思|(?:无法|不能|不可以|不会|不便|不应|拒绝|没有办法|没法)"
    r".{0,12}(?:提供|回答|帮助|协助|满足|透露|告诉|完成|给出|生成|编写|支持|泄露|这样做|做这)|"
    r"(?:违法|违反|不道德|不合法|不安全).{0,20}(?:不能|无法|请勿|建议|行为|法律)|恕难|请勿(?:尝试|从事)",
)


def is_chinese(text: str) -> bool:
    """Whether ideographs are what it is mostly written in."""
    han = len(HAN.findall(text))
    return han > 0 and 2 * han >= sum(c.isalpha() and c.isascii() for c in text) / 2


def is_refusal(answer: str) -> bool:
    """An answer that says at its beginning that it will not do what was asked, in English or Chinese."""
    first = answer.strip()[:FIRST_CHARS].replace("’", "'")
    return bool(EN.search(first) or ZH.search(first))
