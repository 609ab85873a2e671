"""What a service does about personal data and keys in its answers, and about orders in what it reads.

Finds are counted by category, in the metrics and the log; no value stands in either. Not here: how a value is
found (sensitive), who may ask at all (guard.py), where an answer is looked at (turn/guarded.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import Where, WrongUse
from ...sensitive import KINDS, SECRETS, USUAL, Screen, Tags, orders_in, without_orders
from ..base.errors import ApiError
from ..base.log import log

PERSONAL, INJECTION = "personal", "injection"
GROUPS = (PERSONAL, "secrets", INJECTION)
ACTIONS = ("off", "report", "redact", "refuse")
READ = ("user", "tool", "function", "document")  # whose messages may hold a text from elsewhere


def guard_words(text: str) -> dict[str, str]:
    """Of a flag: `redact`, or `personal=redact,secrets=refuse,injection=report`. Raises WrongUse."""
    if text == "off":
        return {}
    if text in ACTIONS:
        return dict.fromkeys(GROUPS, text)
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    for group, action in pairs.items():
        if group not in (*GROUPS, *KINDS) or action not in ACTIONS:
            raise WrongUse(
                "serve.guard", f"--guard has no {group}={action}", where=Where(field="--guard"),
                why=f"groups: {', '.join(GROUPS)}; kinds: {', '.join(KINDS)}; actions: {', '.join(ACTIONS)}",
                hint="--guard redact, or --guard personal=redact,secrets=refuse,injection=report",
            )  # fmt: skip
    return pairs


class AnswerGuard:
    """`actions`: of a group, or of one kind of value before its group -> off, report, redact, refuse.

    `count(category, action, count)` is told each find. `label`: an answer ends with words that say it was
    generated.
    """

    def __init__(
        self, actions: Mapping[str, str], count: Callable[[str, str, int], None], label: bool = False
    ) -> None:
        self.count, self.label = count, label
        of_kind = dict.fromkeys(USUAL, actions.get(PERSONAL, "off"))
        of_kind |= dict.fromkeys(SECRETS, actions.get("secrets", "off"))
        of_kind |= {kind: action for kind, action in actions.items() if kind in KINDS}
        self.actions = {kind: action for kind, action in of_kind.items() if action != "off"}
        self.injection = actions.get(INJECTION, "off")

    @property
    def unlabelled(self) -> AnswerGuard:
        """The same for a text that goes on with the caller's own."""
        other = AnswerGuard({}, self.count)
        other.actions, other.injection = self.actions, self.injection
        return other

    @property
    def holds(self) -> bool:
        """Whether an answer may come out changed."""
        return any(action != "report" for action in self.actions.values())

    def screen(self, tags: Tags) -> Screen:
        """For one text of an answer; `tags` are the answer's."""
        return Screen(self.actions, tags)

    def changes(self, text: str) -> bool:
        """Whether this whole text may not go out as it is."""
        screen = self.screen(Tags())
        return screen.push(text) + screen.end() != text or screen.refused

    def told(self, counts: Mapping[str, int]) -> None:
        """Of one text that is over."""
        for kind, count in counts.items():
            self._note(kind, self.actions[kind], count, "answer")

    def _note(self, category: str, action: str, count: int, where: str) -> None:
        if count:
            self.count(category, action, count)
            log("guard.found", category=category, action=action, count=count, where=where)

    # ------------------------------------------------------------------ what the model reads

    def messages(self, messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Those of users and tools without orders to the model. Raises ApiError 400 where that is refused."""
        if self.injection == "off":
            return messages
        return [self._message(m) if m.get("role") in READ else m for m in messages]

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if isinstance(content, str):
            return {**message, "content": self.prompt(content)}
        if isinstance(content, list):
            return {**message, "content": [self._part(part) for part in content]}
        return message

    def _part(self, part: Any) -> Any:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return {**part, "text": self.prompt(part["text"])}
        return part

    def prompt(self, text: str, as_ids: bool = False) -> str:
        """A text without orders to the model; one of token ids cannot be changed, and is refused then."""
        if self.injection == "off" or not (orders := len(orders_in(text))):
            return text
        action = "refuse" if as_ids and self.injection == "redact" else self.injection
        self._note(INJECTION, action, orders, "prompt")
        if action == "refuse":
            raise ApiError(
                400, "a text in the prompt gives orders to the model; this service does not read such",
                param="messages", code="content_filter",
            )  # fmt: skip
        return without_orders(text)[0] if action == "redact" else text
