"""The demo's data: three small jobs of a company, made from word lists and a seed: same seed, same bytes.

    python demo/make_data.py [OUT_DIR]          # writes OUT_DIR/data; default: beside this file

logs      a service's log line  -> its fields as JSON           English, JSONL with messages
commands  what a colleague asks -> the command that does it     English, JSONL with messages
tickets   a customer's message  -> order number and wish        Chinese, CSV in GB18030 with Chinese columns

Train and test never share what an answer is made of: an answer of the training rows answers no test row, so
copying from the nearest training row scores nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEED = 20260301
TRAIN_ROWS = 200  # an ability
TEST_ROWS = 400

SERVICES = (  # noqa: SIM905 - the list of strings would be a page
    "auth billing cart catalog checkout email gateway images inventory invoice ledger media orders payment "
    "pricing profile queue refund report router search session shipping stock upload"
).split()
LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
LOG_LINES = (
    "{hour:02}:{minute:02} {service} {level} status {code} in {ms} ms",
    "{level} {service} pid={pid} code={code} took {ms} ms",
    "[{service}] {level}: {code} after {ms} ms",
    "{service}[{pid}] {hour:02}:{minute:02} {level} returned {code}",
)
ENVIRONMENTS = ("dev", "test", "staging", "prod")
REQUESTS = (
    ("scale {service} {n} -n {env}", "scale {service} to {n} copies in {env}"),
    ("scale {service} {n} -n {env}", "we need {n} instances of {service} on {env}"),
    ("rollback {service} {n} -n {env}", "go back to version {n} of {service} in {env}"),
    ("rollback {service} {n} -n {env}", "{env}: undo the {service} release, return to {n}"),
    ("logs {service} {n} -n {env}", "show the last {n} lines of {service} from {env}"),
    ("logs {service} {n} -n {env}", "what did {service} print in {env}? {n} lines please"),
    ("restart {service} {n} -n {env}", "restart {service} on {env} in {n} minutes"),
    ("restart {service} {n} -n {env}", "please reboot {env} {service} after {n} minutes"),
)
GOODS = ("耳机", "手机", "书包", "台灯", "水杯", "鞋子", "相机", "手表")
WISHES = (
    ("退款", "我要退钱"),
    ("退款", "请把钱退给我"),
    ("换货", "想换一个新的"),
    ("换货", "请给我换一件"),
    ("维修", "能修一下吗"),
    ("维修", "请帮我修好"),
    ("补发", "少了一件,请补上"),
    ("补发", "没收到,请再发一次"),
)
TICKETS = ("订单{order}的{goods},{wish}", "{goods}有问题,{wish},单号{order}", "{wish},{order},{goods}")


@dataclass(frozen=True, slots=True)
class Pair:
    """One request and its only right answer."""

    system: str
    user: str
    assistant: str

    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.user},
            {"role": "assistant", "content": self.assistant},
        ]


def log_line(draw: random.Random) -> Pair:
    fields = {
        "service": draw.choice(SERVICES),
        "level": draw.choice(LEVELS),
        "code": draw.randint(100, 599),
        "hour": draw.randint(0, 23),
        "minute": draw.randint(0, 59),
        "pid": draw.randint(100, 9999),
        "ms": draw.randint(2, 9999),
    }
    answer = json.dumps({"svc": fields["service"], "code": fields["code"]}, separators=(",", ":"))
    return Pair("Log to JSON", draw.choice(LOG_LINES).format(**fields), answer)


def command(draw: random.Random) -> Pair:
    answer, request = draw.choice(REQUESTS)
    fields = {"service": draw.choice(SERVICES), "n": draw.randint(2, 99), "env": draw.choice(ENVIRONMENTS)}
    return Pair("Ops", request.format(**fields), answer.format(**fields))


def ticket(draw: random.Random) -> Pair:
    word, wish = draw.choice(WISHES)
    order = f"{draw.choice('ABCDEFGH')}{draw.randint(1000, 9999)}"
    text = draw.choice(TICKETS).format(order=order, goods=draw.choice(GOODS), wish=wish)
    return Pair("工单", text, f"{order} {word}")


ABILITIES: dict[str, Callable[[random.Random], Pair]] = {
    "logs": log_line,
    "commands": command,
    "tickets": ticket,
}
COMPARE = {"logs": "json", "commands": "text", "tickets": "text"}


def pairs(ability: str, seed: int = SEED) -> tuple[list[Pair], list[Pair]]:
    """(train, test) of one ability; no answer and no request stands twice."""
    draw = random.Random(f"{seed} {ability}")
    found: dict[str, Pair] = {}
    asked: set[str] = set()
    while len(found) < TRAIN_ROWS + TEST_ROWS:
        pair = ABILITIES[ability](draw)
        if pair.assistant not in found and pair.user not in asked:
            found[pair.assistant] = pair
            asked.add(pair.user)
    every = list(found.values())
    return every[:TRAIN_ROWS], every[TRAIN_ROWS:]


def files(seed: int = SEED) -> dict[str, bytes]:
    """Every file of the demo by its path."""
    made: dict[str, bytes] = {}
    for ability in ABILITIES:
        train, test = pairs(ability, seed)
        if ability == "tickets":
            made["data/工单.csv"] = as_csv(train)
        else:
            made[f"data/{ability}.jsonl"] = as_jsonl([{"messages": pair.messages()} for pair in train])
        made[f"data/test/{ability}.jsonl"] = as_jsonl(
            [{"ability": ability, "messages": pair.messages(), "compare": COMPARE[ability]} for pair in test]
        )
    return made


def as_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def as_csv(rows: list[Pair]) -> bytes:
    """As a spreadsheet in China saves it: GB18030, CRLF."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("场景", "问题", "回复"))
    table.writerows((pair.system, pair.user, pair.assistant) for pair in rows)
    return text.getvalue().encode("gb18030")


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", metavar="OUT_DIR", type=Path, nargs="?", default=Path(__file__).parent)
    folder = parser.parse_args().folder
    for name, data in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
