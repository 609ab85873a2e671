"""What is wrong with a chat: an echo for an answer, a refusal, an answer that stops in mid-sentence."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from ..facts import CHAT, Facts, Kind
from ..row import Row, tight
from .phrases import hits, weight, words

SELF = words(
    r"\bas an? (?:\w+ )?(?:AI|artificial intelligence|(?:large )?language model|chatbot|"
    r"virtual assistant)\b|\bI(?:'m| am|’m) (?:just |only |merely )?an? (?:AI|artificial|"
    r"language model|chatbot|machine)",
    r"作为(?:一(?:个|名|款|种))?(?:AI|人工智能|大?(?:型)?语言模型|智能(?:助手|助理|机器人)|"
    r"聊天机器人|虚拟助手)|我是[^。，,]{0,12}(?:人工智能|语言模型|AI\b)|我(?:只是|仅仅是|"
    r"不过是)(?:一(?:个|名|款))?(?:AI|人工智能|语言模型|"
    r"机器人|程序)",
)  # fmt: skip
UNABLE = words(
    r"\b(?:can(?:not|'t|’t| not)|unable|not able|not capable|not allowed|not (?:be )?(?:appropriate|"
    r"possible|comfortable)|do(?:n't|n’t| not) have|"
    r"wo(?:n't|n’t)|will not|must decline|no (?:personal )?(?:opinions?|feelings?|access)|sorry|"
    r"apologi[sz]e)\b",
    r"无法|不能|没有(?:个人|自己|情感|能力|权限|感情)|不(?:便|会|具备|可以|方便|允许)|"
    r"没(?:有)?办法|抱歉|对不起|拒绝",
)  # fmt: skip
FLAT_REFUSAL = words(
    r"^\W*(?:I(?:'m| am|’m) (?:very |so |really |truly )?sorry|sorry|unfortunately|my apologies|"
    r"I apologi[sz]e)[,.]?(?: but)?,? I (?:can(?:not|'t|’t| not)|am (?:unable|not able|"
    r"not allowed)|won't|will not|must decline|do not|don't)\b[^.]{0,40}\b(?:help|assist|answer|"
    r"provide|comply|fulfil|do that|respond|complete|discuss|with that|request|opinion)",
    r"^\W*I (?:can(?:not|'t|’t| not)|am unable to|won't|am not able to) (?:help|assist|answer|"
    r"provide|comply|fulfil|do that|respond|complete|discuss)",
    r"^\W*(?:很|非常|十分|实在)?(?:抱歉|对不起|遗憾|不好意思)[，,！!。]?[^。]{0,12}(?:无法|不能|"
    r"没办法|没法)(?:回答|提供|协助|满足|完成|帮助|处理|给出|继续|讨论|回应|为您)",
)  # fmt: skip
REFUSAL_WORDS = 80  # a longer answer says something besides
NO_LAST_WORD = re.compile(
    r"(?:\b(?:the|an?|of|to|and|or|but|with|from|by|for|at|in|into|that|which|who|whose|is|are|was|were|"
    r"be|been|has|"
    r"have|had|will|would|can|could|may|might|must|should|very|more|most|their|our|your|his|its|my|because|"
    r"although|if|when|while|than|as|between|about)|(?:[,，、]|的|和|与|或|把|被|将|对|从|在|向|以|为|"
    r"因为|由于|如果|虽然|但是|而且|并且|以及))\s*$",
    re.IGNORECASE,
)
FRAGMENT_WORDS = 0.3  # two letters, or an ideograph
END_OF_ANSWER = re.compile(r"[.!?。！？…;；:：”’\"'»)\]}>）】》`*_~|=\-]\s*$")
SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]")
LISTED = re.compile(r"^\s*(?:[-*•·●▪‣+]|\d+[.)、]|[（(]?[一二三四五六七八九十]+[)）、.]|[a-z]\)|#+|>|\|)")
ECHO_CHARS = 12
SENTENCE_DONE = re.compile(r"[.!?。！？][\"'”’)）]?\s*$")
LINE_CHARS, LINE_WORDS, ENDED_SHARE = 30, 4, 0.8


def echo(facts: Facts) -> np.ndarray:
    """The answer says what the question said."""
    return of_chats(facts, is_echo)


def is_echo(row: Row) -> bool:
    turns = [m for m in row.messages or () if m["role"] in ("user", "assistant")]
    pairs = pairwise(turns)
    return any(
        a["role"] == "user"
        and b["role"] == "assistant"
        and len(a["content"]) >= ECHO_CHARS
        and tight(a["content"]) == tight(b["content"])
        for a, b in pairs
        if len(a["content"]) == len(b["content"]) or abs(len(a["content"]) - len(b["content"])) < 4
    )


def refusal(facts: Facts) -> np.ndarray:
    """An answer that declines, for no other reason than what the one that answers is."""
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.in_form(CHAT) & facts.has("refusal")).tolist():
        out[row] = is_refusal(last_answer(facts.rows[row]))
    return out


def is_refusal(answer: str) -> bool:
    if weight(answer) > REFUSAL_WORDS:
        return False
    return bool(hits(SELF, answer) and hits(UNABLE, answer)) or bool(hits(FLAT_REFUSAL, answer))


def unfinished(facts: Facts) -> np.ndarray:
    """The last answer has whole sentences, and then part of one."""
    return of_chats(facts, lambda row: stops_short(last_answer(row)))


def unfinished_text(facts: Facts) -> np.ndarray:
    """As `unfinished`, of a plain text: its last word must ask for another."""
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero((facts.words >= 20) & (facts.text_counts[:, Kind.END] >= 1)).tolist():
        text = facts.text(row)
        out[row] = bool(NO_LAST_WORD.search(text[-24:])) and stops_short(text)
    return out


def stops_short(text: str) -> bool:
    """Its last line has a sentence that ends and one that does not; a list or a link is none."""
    text = text.rstrip()
    if not text or END_OF_ANSWER.search(text[-3:]):
        return False
    line = text.rsplit("\n", 1)[-1]
    if alone_unended(text, line):
        return True
    if LISTED.match(line) or (not line[-1].isalnum() and line[-1] not in ",，、"):
        return False
    ends = list(SENTENCE_END.finditer(line))
    if not ends:
        return False
    fragment = line[ends[-1].end() :].strip()
    return weight(fragment) >= FRAGMENT_WORDS and "://" not in fragment


def alone_unended(text: str, line: str) -> bool:
    """Nearly every longer line before it ends as a sentence does, and this last one does not."""
    if not line[-1].isalpha() or any(c in line for c in "=|{}<>\\") or weight(line) < LINE_WORDS:
        return False
    before = [
        one
        for one in text[: -len(line)].split("\n")
        if len(one) >= LINE_CHARS and one.rstrip()[-1:] not in ":："
    ]
    ended = sum(bool(SENTENCE_DONE.search(one)) for one in before)
    return len(before) >= 2 and ended >= ENDED_SHARE * len(before)


def last_answer(row: Row) -> str:
    return next((m["content"] for m in reversed(row.messages or ()) if m["role"] == "assistant"), "")


def of_chats(facts: Facts, test) -> np.ndarray:
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.in_form(CHAT)).tolist():
        out[row] = test(facts.rows[row])
    return out
