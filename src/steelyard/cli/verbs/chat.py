"""chat: someone who talks to a service, or asks it one question from the command line or a pipe."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from ...errors import Problem, WrongUse
from ..asking.flags import flag, flags_of
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import note, result, tell, write
from .recipes import no_settings
from .services import endpoint

HELP = (
    ("/help", "this list"),
    ("/bye", "end; an empty line or Ctrl-D does too"),
    ("/clear", "forget what was said"),
    ("/system [TEXT|N]", "show the system prompt, set it, or take one of the data's"),
    ("/temperature [T]", "how freely it draws: 0 = the likeliest word"),
)
ENDS = ("/bye", "/exit", "/quit", "/q")


@dataclass(frozen=True, kw_only=True)
class ChatFlags:
    """Every flag of `chat`."""

    model: Annotated[str | None, typer.Argument(metavar="MODEL|URL", show_default=False)] = None
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", show_default=False)] = None
    system: Annotated[
        str | None, flag("--system", "TEXT", say("A system prompt; the data's usual one; '' for none."))
    ] = None
    temperature: Annotated[
        float | None,
        flag("--temperature", "T", say("0 = the likeliest word; the service's own."), min=0, max=2),
    ] = None
    max_tokens: Annotated[int, flag("--max-tokens", "N", say("Longest answer."), min=1)] = 512
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="STEELYARD_API_KEY", show_envvar=True, show_default=False),
    ] = None


@flags_of(ChatFlags)
def chat(flags: ChatFlags) -> None:
    no_settings("chat")
    on_terminal = sys.stdin.isatty()
    piped = "" if on_terminal else sys.stdin.read().strip()
    question = "\n\n".join(part for part in (flags.prompt, piped) if part)
    if not question and not on_terminal:
        raise WrongUse("chat.empty", say("there is no prompt"), hint="steelyard chat demo 'Hello'")
    with endpoint(flags.model) as url:
        talk = Talk.begin(url, flags)
        if not question:
            return talk.go()
        answer = talk.ask(question)
        if OPTIONS.json:
            result({"schema": "steelyard.chat/1", "answer": answer, "url": url, "system": talk.system})
    return None


@dataclass(slots=True)
class Talk:
    """One talk: its messages, and how they are sent. `usual`: the system prompts of the data."""

    url: str
    flags: ChatFlags
    usual: list[str]
    system: str | None
    messages: list[dict[str, str]]

    @staticmethod
    def begin(url: str, flags: ChatFlags) -> Talk:
        """With the system prompt of --system, else the one that the data has most often."""
        from ...run import usual_systems

        usual = usual_systems(url)
        system = (usual[0] if usual else None) if flags.system is None else flags.system or None
        return Talk(url, flags, usual, system, [])

    def go(self) -> None:
        """Questions and answers until the user ends it; an error is shown, and the talk goes on."""
        note(say("ask away; /help lists what else is known, /bye ends"))
        if self.system:
            note(self._shown_system())
        while line := _line():
            if line in ENDS:
                return
            try:
                self._command(line) if line.startswith("/") else self.ask(line)
            except Problem as problem:
                from ..telling.output import failure

                failure(problem)

    def ask(self, question: str) -> str:
        """One answer, written as it comes. A question that was not answered is forgotten."""
        from ...serving import chat as ask

        system = [{"role": "system", "content": self.system}] if self.system else []
        turns = [*self.messages, {"role": "user", "content": question}]
        sampling: dict[str, Any] = {"max_tokens": self.flags.max_tokens}
        if self.flags.temperature is not None:
            sampling["temperature"] = self.flags.temperature
        pieces: list[str] = []
        for text in ask(self.url, [*system, *turns], api_key=self._key(), **sampling):
            pieces.append(text)
            if not OPTIONS.json:
                write(text)
        if not OPTIONS.json:
            tell()
        answer = "".join(pieces)
        self.messages = [*turns, {"role": "assistant", "content": answer}]
        return answer

    def _key(self) -> str | None:
        return self.flags.api_key or os.environ.get("OPENAI_API_KEY")

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/system":
            self._set_system(rest.strip())
        elif word == "/temperature":
            self._set_temperature(rest.strip())
        elif word == "/clear":
            self.messages = []
        else:
            if word != "/help":
                note(say("there is no {word}", word=word))
            for name, text in HELP:
                note(f"  {name:18} {say(text)}")

    def _set_system(self, text: str) -> None:
        if text:
            number = int(text) if text.isdecimal() else 0
            self.system = self.usual[number - 1] if 0 < number <= len(self.usual) else text
            self.messages = []
        note(self._shown_system())
        if not text:
            for i, usual in enumerate(self.usual, 1):
                note(f"  {i}  {usual[:100]}")

    def _shown_system(self) -> str:
        origin = f"  ({say('of the data; /system changes it')})" if self.system in self.usual else ""
        return f"{say('system prompt:')} {(self.system or '-')[:200]}{origin}"

    def _set_temperature(self, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 2:
            note(say("a temperature is a number from 0 to 2"))
            return
        self.flags = replace(self.flags, temperature=value)


def _line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):  # both are how one leaves a talk
        return ""
