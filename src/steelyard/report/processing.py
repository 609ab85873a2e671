"""The record of processing as Markdown, in English or Chinese: articles beside each part, blanks named.

From plain data (`steelyard record --json`). It is no legal advice, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .words import Words, words

CONTROLLER = {
    "name": "name", "contact": "contact", "joint_controller": "joint controller",
    "representative": "representative", "data_protection_officer": "data protection officer",
}  # fmt: skip
ASSESSMENT = {
    "necessity": "lawful, fair and necessary: why",
    "impact_on_individuals": "effects on people, and risks",
    "automated_decisions": "automated decisions",
    "entrusted_to": "entrusted or provided to others",
}
SECURITY = {
    "sealed_at_rest": "sealed on the disk", "personal_data_masked": "personal data masked in what is trained",
    "trust": "trust level", "tls": "HTTPS", "keys": "keys asked for",
    "models_scanned_before_load": "models scanned before they are loaded",
    "organisational": "organisational measures",
}  # fmt: skip


def render_record(record: Mapping[str, Any], language: str = "en") -> str:
    """The page; `record` as `run.processing_record` gives it."""
    say = words(language)
    lines = [f"# {say('Record of processing')}", ""]
    lines.append(say("Made at {at} from the lineage of artefacts. No legal advice.", at=record["made_at"]))
    lines += ["", f"## {say('Controller')} (GDPR Art. 30(1)(a))", ""]
    lines += [item(say(text), record["controller"][key], say) for key, text in CONTROLLER.items()]
    for one in record["activities"]:
        lines += ["", *activity(one, say)]
    count = len(record["to_be_filled_in"])
    lines += [
        "",
        say("{n} places are to be filled in. Keep this record, in China for three years or more.", n=count),
    ]
    return "\n".join(lines) + "\n"


def item(name: str, value: Any, say: Words) -> str:
    return f"- {name}: {shown(value, say)}"


def shown(value: Any, say: Words) -> str:
    """A value as a person reads it; None is a blank."""
    if value is None:
        return f"**{say('to be filled in')}**"
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one, say)}" for name, one in value.items()) or say("none")
    if isinstance(value, list):
        return "; ".join(shown(one, say) for one in value) or say("none")
    return str(value)


def activity(one: Mapping[str, Any], say: Words) -> Iterator[str]:
    yield f"## {say('Activity')}: {one['name']}"
    yield ""
    yield f"### {say('Purpose and data')} (GDPR Art. 30(1)(b), (c); PIPL Art. 56(1))"
    yield ""
    for key, text in (
        ("purpose", "purpose"),
        ("legal_basis", "legal basis"),
        ("data_subjects", "people concerned"),
    ):
        yield item(say(text), one[key], say)
    data = one["personal_data"]
    yield item(say("personal data found, by kind"), data["found"], say)
    yield item(say("rows with it"), data["rows"], say)
    yield item(say("masked, by kind"), data["masked"], say)
    yield item(say("other kinds"), data["other_kinds"], say)
    yield item(say("sensitive data (PIPL Art. 55(1))"), one["sensitive_data"], say)
    yield item(say("rows"), one["rows"], say)
    yield from (item(say("source"), source, say) for source in one["sources"])
    yield ""
    yield f"### {say('What was done')}"
    yield ""
    yield f"| {say('step')} | {say('when')} | {say('artefact')} |"
    yield "| --- | --- | --- |"
    yield from (
        f"| {step['step']} | {step['at']} | {step['kind']} {step['hash'][:12]} |" for step in one["steps"]
    )
    yield ""
    yield f"### {say('Recipients and transfers')} (GDPR Art. 30(1)(d), (e); PIPL Art. 55(3), (4))"
    yield ""
    yield item(say("service"), one["recipients"]["service"], say)
    yield item(say("exports"), one["recipients"]["exports"], say)
    yield item(say("recipients"), one["recipients"]["named"], say)
    yield item(say("transfers abroad"), one["transfers_abroad"], say)
    yield ""
    yield f"### {say('Time limits and erasure')} (GDPR Art. 30(1)(f))"
    yield ""
    yield item(say("time limit"), one["retention"]["time_limit"], say)
    yield item(say("uploads for batches go after, days"), one["retention"]["batch_uploads_days"], say)
    yield item(say("rows erased"), one["retention"]["erased"], say)
    yield ""
    yield f"### {say('Security')} (GDPR Art. 30(1)(g), 32; PIPL Art. 56(3))"
    yield ""
    known = {key: value for key, value in one["security"].items() if key in SECURITY}
    yield from (item(say(SECURITY[key]), value, say) for key, value in known.items())
    yield ""
    yield f"### {say('Impact assessment')} (PIPL Art. 55, 56)"
    yield ""
    yield from (item(say(text), one["assessment"][key], say) for key, text in ASSESSMENT.items())
