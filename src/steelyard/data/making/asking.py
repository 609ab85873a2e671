"""Passages that wait for an answer, a few at once; each answer is in the journal as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ...artefact import Progress, Watch
from ...errors import Problem, Stopped
from .endpoint import Endpoint, Reply
from .journal import Journal
from .prompt import format_of, messages_of

ANSWER_TOKENS = 400  # a row: a question, an answer of a paragraph, a quote


@dataclass(slots=True)
class Asking:
    """What is under way, and what went wrong."""

    endpoint: Endpoint
    journal: Journal
    questions: int
    at_once: int
    running: dict[Future[Reply], str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # key: the server's words
    fault: Problem | None = None  # that no other passage escapes

    def ask(self, waiting: Mapping[str, Mapping[str, Any]], watch: Watch) -> None:
        """What is under way is awaited whatever comes, so that no answer is lost. Raises Problem, Stopped."""
        todo = iter(waiting.items())
        with (
            ThreadPoolExecutor(self.at_once) as pool,
            watch.progress("make", total=len(waiting), unit="passages") as bar,
        ):
            self.begin(pool, todo)
            while self.running:
                self.take(bar)
                if not (watch.stop or self.fault):
                    self.begin(pool, todo)
        if self.fault:
            raise self.fault
        if watch.stop and next(todo, None) is not None:
            raise Stopped("run.stopped", "making rows was stopped", hint="run the same command again")

    def begin(self, pool: ThreadPoolExecutor, todo: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        for key, row in islice(todo, self.at_once - len(self.running)):
            self.running[pool.submit(self.one, row)] = key

    def one(self, row: Mapping[str, Any]) -> Reply:
        count = self.questions
        return self.endpoint.ask(messages_of(row, count), format_of(count), ANSWER_TOKENS * count)

    def take(self, bar: Progress) -> None:
        done, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
        for one in done:
            key = self.running.pop(one)
            try:
                self.keep(key, one.result())
            except Problem as fault:
                self.fault = fault
            bar.advance(1)

    def keep(self, key: str, reply: Reply) -> None:
        if reply.text is None:
            self.refused[key] = reply.why
            return
        tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        self.journal.add(key, {"text": reply.text, **tokens})
