"""Ten files of the kinds that people have: `init`, `up`, a first question. Is every row accounted for?

    python bench/csvs.py [--only NAME ...] [--model demo] [--work DIR] [--until clean|serve] [--out FILE.json]

Protocol: each file is made from a fixed seed; `steelyard init --yes` writes its recipe (with `--map` where a
user would have to say what the columns are), `steelyard up --yes` runs it, one question of the held-out rows
is asked of the service, and the service is stopped. A row of the result says whether the account holds what
was put into the file, what the gate decided, and whether the answer is of the kind that the data teaches.
Without a service (`--until clean`) only the account is looked at.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROWS = 200
LONG_CHARS = 30_000
PORT = 8461


@dataclass(frozen=True)
class File:
    """What was put into a file, so that its account can be checked."""

    path: Path
    read: int  # rows, or conversations where `thread` joins them
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    map: str = ""  # what a user has to say; "" where `init` guesses it
    guess: dict[str, Any] = field(default_factory=dict)  # the map that `init` should find
    compare: str = "text"
    question: str = ""  # of the kind that the file teaches
    answer: str = ""


# ------------------------------------------------------------------ what the rows say

GOODS = ("kettle", "lamp", "desk", "chair", "printer", "router", "bicycle", "tent", "camera", "heater")
GOODS_ZH = ("水壶", "台灯", "书桌", "椅子", "打印机", "路由器", "自行车", "帐篷", "相机", "取暖器")
QUEUES = {"refund": "wants the money back for", "delivery": "still waits for", "repair": "has a broken"}


def ask(n: int, dice: random.Random) -> tuple[str, str]:
    """A customer's question and the desk's reply to it."""
    goods, order = dice.choice(GOODS), 4000 + n
    question = f"Hello, my {goods} from order {order} has not arrived. When does it come?"
    return question, f"We are sorry. Order {order} with your {goods} will be there in two days."


def ask_zh(n: int, dice: random.Random) -> tuple[str, str]:
    goods, order = dice.choice(GOODS_ZH), 4000 + n
    return f"您好，订单{order}的{goods}还没到，什么时候发货？", f"您好，订单{order}的{goods}将在两天内送达。"


def pairs(count: int, seed: int, maker: Callable[[int, random.Random], tuple[str, str]] = ask) -> list[Any]:
    dice = random.Random(seed)
    return [maker(n, dice) for n in range(count)]


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], **how: Any) -> None:
    encoding = how.pop("encoding", "utf-8")
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, **how).writerows([header, *rows])


# ------------------------------------------------------------------ the ten files


def own_headings(folder: Path) -> File:
    """Headings of one's own, blank cells, exact duplicates, a ticket number that is no thread."""
    made = [(f"T-{n // 2:04}", q, a, "high", f"c{n}@mail.example") for n, (q, a) in enumerate(pairs(ROWS, 1))]
    made += made[:10]
    made += [("T-9", "", "Thank you.", "low", ""), ("T-10", "Is anybody there?", "", "low", "")]
    path = folder / "tickets.csv"
    table(path, ["ticket_id", "customer message", "agent reply", "priority", "email"], made)
    guess = {"user": "customer message", "assistant": "agent reply"}
    return File(
        path, ROWS + 12, {"duplicate": 10, "empty": 2}, guess=guess, question=made[7][1], answer=made[7][2]
    )


def subject_and_body(folder: Path) -> File:
    """Mail: a subject, a body and the queue that it belongs to."""
    dice = random.Random(2)
    made = []
    for n in range(ROWS):
        queue, goods = dice.choice(sorted(QUEUES)), dice.choice(GOODS)
        made.append(
            (f"Order {4000 + n}", f"The customer {QUEUES[queue]} a {goods}, order {4000 + n}.", queue)
        )
    path = folder / "mail.csv"
    table(path, ["subject", "body", "label"], made)
    question = "\n".join(made[3][:2])
    guess = {"user": ["subject", "body"], "assistant": "label"}
    return File(path, ROWS, guess=guess, compare="label", question=question, answer=made[3][2])


def gb18030(folder: Path) -> File:
    """As a Chinese spreadsheet saves it."""
    made = [(f"GD{n}", q, a, "2024-05-01") for n, (q, a) in enumerate(pairs(ROWS, 3, ask_zh))]
    path = folder / "工单.csv"
    table(path, ["工单号", "问题描述", "客服答复", "创建时间"], made, encoding="gb18030")
    return File(
        path,
        ROWS,
        guess={"user": "问题描述", "assistant": "客服答复"},
        question=made[5][1],
        answer=made[5][2],
    )


def semicolons(folder: Path) -> File:
    """Semicolons, quotes, cells of several lines, a line that is too short."""
    made = [(n, f'He wrote: "{q}"\n\nBest regards', a) for n, (q, a) in enumerate(pairs(ROWS, 4))]
    path = folder / "issues.csv"
    table(path, ["No", "issue", "solution"], made, delimiter=";")
    return File(
        path, ROWS, guess={"user": "issue", "assistant": "solution"}, question=made[5][1], answer=made[5][2]
    )


def tabs(folder: Path) -> File:
    """Tabs, and a mark of the byte order."""
    made = [(q, a, n % 5) for n, (q, a) in enumerate(pairs(ROWS, 5))]
    path = folder / "cases.tsv"
    table(path, ["description", "resolution", "rating"], made, delimiter="\t", encoding="utf-8-sig")
    guess = {"user": "description", "assistant": "resolution"}
    return File(path, ROWS, guess=guess, question=made[5][0], answer=made[5][1])


def threads(folder: Path) -> File:
    """Conversations over several rows; the user says so."""
    made = []
    for n, (q, a) in enumerate(pairs(ROWS, 6)):
        order = 4000 + n
        more = f"And can order {order} be left at the door?", f"Yes, order {order} can be left there."
        made += [(f"C{n}", q, a), (f"C{n}", *more)]
    path = folder / "chats.csv"
    table(path, ["conversation", "question", "reply"], made)
    map = "user=question,assistant=reply,thread=conversation"
    return File(path, ROWS, map=map, question=made[4][1], answer=made[4][2])


def workbook(folder: Path) -> File:
    """XLSX whose first sheet is a note."""
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Read me"
    book.active.append(["Exported on 3 May by the help desk"])
    sheet = book.create_sheet("Tickets")
    sheet.append(["id", "question", "answer"])
    made = [(n, q, a) for n, (q, a) in enumerate(pairs(ROWS, 7))]
    for row in made:
        sheet.append(row)
    path = folder / "export.xlsx"
    book.save(path)
    return File(path, ROWS, question=made[5][1], answer=made[5][2])


STOCK = {
    "type": "function",
    "function": {"name": "stock", "description": "Pieces in stock",
                 "parameters": {"type": "object", "properties": {"item": {"type": "string"}}}},
}  # fmt: skip


def tool_chat(n: int, dice: random.Random) -> list[dict[str, Any]]:
    goods, count = dice.choice(GOODS), dice.randint(1, 60)
    function = {"name": "stock", "arguments": json.dumps({"item": goods})}
    call = {"id": f"call_{n}", "type": "function", "function": function}
    return [
        {"role": "user", "content": f"Request {n}: how many of the {goods} are there?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{n}", "content": json.dumps({"pieces": count})},
        {"role": "assistant", "content": f"There are {count} of the {goods}."},
    ]


def tool_calls(folder: Path) -> File:
    """OpenAI's own chats with tools, one with nothing to learn, one that rates a bad answer."""
    dice = random.Random(8)
    rows = [{"messages": tool_chat(n, dice), "tools": [STOCK]} for n in range(ROWS)]
    rows.append({"messages": [{"role": "user", "content": "Hello?"}]})
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = rows[5]["messages"]
    return File(path, ROWS + 1, {"no_answer": 1}, question=last[0]["content"], answer=last[-1]["content"])


def json_in_a_column(folder: Path) -> File:
    """A database's export: the chat and its tools as JSON in cells."""
    dice = random.Random(9)
    made = [(n, json.dumps(tool_chat(n, dice)), json.dumps([STOCK])) for n in range(ROWS)]
    path = folder / "log.csv"
    table(path, ["id", "messages", "tools"], made)
    last = json.loads(made[5][1])
    return File(path, ROWS, question=last[0]["content"], answer=last[-1]["content"])


def one_long_row(folder: Path) -> File:
    """Orders to JSON, English and Chinese mixed, with one row of 30,000 characters."""
    dice = random.Random(10)
    made = []
    for n in range(ROWS):
        goods, count = dice.randrange(len(GOODS)), dice.randint(1, 9)
        name = (GOODS, GOODS_ZH)[n % 2][goods]
        text = f"Order {4000 + n}: {count} x {name}" if n % 2 == 0 else f"订单{4000 + n}：{count}件{name}"
        answer = {"order": 4000 + n, "item": name, "count": count}
        made.append([text, json.dumps(answer, ensure_ascii=False)])
    made[ROWS // 2][0] += " " + "and so on, as was said on the telephone; " * (LONG_CHARS // 42)
    path = folder / "orders.csv"
    table(path, ["input text", "output json"], made)
    guess = {"user": "input text", "assistant": "output json"}
    return File(path, ROWS, guess=guess, compare="json", question=made[6][0], answer=made[6][1])


FILES: dict[str, Callable[[Path], File]] = {
    "own headings, blanks, duplicates": own_headings, "subject and body": subject_and_body,
    "GB18030": gb18030, "semicolons and quotes": semicolons, "tabs": tabs, "threads": threads,
    "a workbook with a note": workbook, "tool calls": tool_calls, "JSON in a column": json_in_a_column,
    "one row of 30,000 characters": one_long_row,
}  # fmt: skip


# ------------------------------------------------------------------ one file through the path


def faults_of(made: File, account: dict[str, Any]) -> list[str]:
    """Where the account does not say what was put into the file; [] if it does."""
    sums = {
        "read": (account["read"], made.read),
        "read = kept + dropped": (account["read"], account["kept"] + account["dropped"]),
        "dropped": (account["by_reason"], made.dropped),
        "kept = train + held out": (account["kept"], account["train"] + account["held_out"]),
    }
    return [f"{name}: {got} where {wanted} is right" for name, (got, wanted) in sums.items() if got != wanted]


def steelyard(*words: str, limit_s: float = 3600) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "steelyard", *words, "--json"], capture_output=True, text=True, timeout=limit_s
    )
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        return done.returncode, {"error": {"message": done.stderr[-2000:]}}


def run(name: str, folder: Path, model: str, until: str) -> dict[str, Any]:
    """`init`, `up`, a question; what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = FILES[name](folder)
    job = folder / "job"
    row: dict[str, Any] = {"file": name, "name": made.path.name}
    begun = time.monotonic()
    map = ["--map", made.map] if made.map else []
    code, told = steelyard("init", str(job), "--data", str(made.path), "--model", model, "--yes", *map)
    row["init"] = code
    if code:
        return row | {"error": told["error"]["message"]}
    up = [
        "up",
        str(job / "steelyard.yaml"),
        "--yes",
        "--set",
        f"serve.port={PORT}",
        "--set",
        "goal.load.users=1",
    ]
    code, told = steelyard(*up, *(["--until", until] if until != "serve" else []))
    row |= {"up": code, "wall_s": round(time.monotonic() - begun, 1), "scores": told.get("scores")}
    row["rows"] = told.get("rows")
    row["faults"] = account_faults(made, job)
    if code:
        row["error"] = told["error"]["message"]
    if told.get("service"):
        answer = ask_service(told["service"]["url"], made.question)
        row |= {"question": made.question[:200], "answer": answer, "sensible": sensible(answer, made)}
        steelyard("stop", told["run"])
    return row


def account_faults(made: File, job: Path) -> list[str]:
    accounts = sorted(job.rglob("account.json"), key=lambda path: path.stat().st_mtime)
    return faults_of(made, json.loads(accounts[-1].read_text("utf-8"))) if accounts else ["no account"]


def ask_service(url: str, question: str) -> str:
    import httpx

    body = {"model": "default", "messages": [{"role": "user", "content": question}], "max_tokens": 120}
    answer = httpx.post(f"{url.removesuffix('/v1')}/v1/chat/completions", json=body, timeout=600).json()
    message = answer["choices"][0]["message"]
    return message.get("content") or json.dumps(message.get("tool_calls"))


def sensible(answer: str, made: File) -> bool:
    """Of the kind that the data teaches: one of its labels, JSON of its fields, nearly its words."""
    if made.compare == "label":
        return answer.strip() in QUEUES
    if made.compare == "json":
        try:
            return (
                isinstance(found := json.loads(answer), dict)
                and found.keys() == json.loads(made.answer).keys()
            )
        except json.JSONDecodeError:
            return False
    return difflib.SequenceMatcher(None, answer, made.answer).ratio() >= 0.6 or '"stock"' in answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--until", default="serve")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        for n, name in enumerate(args.only):
            rows.append(run(name, work / f"{n}", args.model, args.until))
            if args.out:  # after each: a stopped bench leaves what it has measured
                args.out.write_text(document(rows) + "\n", encoding="utf-8")
    print(document(rows))
    print(json.dumps(totals_of(rows), ensure_ascii=False), file=sys.stderr)


def totals_of(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    good = [not row.get("faults") and not row["init"] and not row.get("up") for row in rows]
    return {
        "accounted": sum(not row.get("faults", ["none"]) for row in rows),
        "whole path": sum(good),
        "sensible": sum(bool(row.get("sensible")) for row in rows),
        "of": len(rows),
    }


def document(rows: Sequence[dict[str, Any]]) -> str:
    content = {"protocol": __doc__, "totals": totals_of(rows), "files": rows}
    return json.dumps(content, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
