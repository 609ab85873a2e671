"""Documents become data: passages, and questions with answers by a real server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import MakeOrder, check, clean, make_rows, rows
from steelyard.data.making.proof import REASONS, Made, faults_of
from steelyard.errors import Lacking, Stopped, WrongUse

GUIDE = """# Pump P-7

## Returns

A pump may be returned within 30 days of delivery if the seal is unbroken. Write to the Lyon desk.

## 保修

泵的保修期为24个月，从交货之日起计算。请联系《客户服务中心》。

## Seals

Order seals by the name of the seal. Each seal costs 4 EUR and lasts one year of normal use in clean water.
"""
RETURNS = {
    "question": "How long may a pump be returned?",
    "answer": "Within 30 days of delivery, if the seal is unbroken.",
    "quote": "A pump may be returned within 30 days of delivery if the seal is unbroken.",
}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ------------------------------------------------------------------ what may be taught

PASSAGE = GUIDE.split("## ")[1].partition("\n")[2] + GUIDE.split("## ")[2].partition("\n")[2]
NUMBER, NAME, LEANS, QUOTE = "number_not_there", "name_not_there", "leans_on_passage", "quote_not_there"
TERM, CONTACT = "泵的保修期为24个月", "请联系《客户服务中心》"
JUDGED = [
    ({}, []),
    ({"quote": "A pump may be returned within 30 days"}, []),
    ({"quote": "**A pump** may be returned\nwithin `30 days`"}, []),
    ({"answer": "Within 60 days of delivery, if the seal is unbroken."}, [NUMBER]),
    ({"question": "Is the pump of 2019 returned?"}, [NUMBER]),
    ({"quote": "A pump may be returned within thirty days"}, [QUOTE]),
    ({"quote": "30 days"}, ["quote_too_short"]),
    ({"answer": "Within 30 days of delivery; write to Marie in Lyon."}, [NAME]),
    ({"answer": "Within 30 days of delivery; write to Lyon."}, []),
    ({"answer": "Ask XJ9-B about the delivery of the pump."}, [NAME]),
    ({"question": "According to the passage, how long may a pump be returned?"}, [LEANS]),
    ({"answer": "Bananas grow quickly near tropical rivers, and monkeys eat them."},
     ["quote_beside", "unsupported"]),
    ({"answer": " "}, ["empty"]),
    ({"question": "保修期多长？", "answer": "保修期为24个月。", "quote": TERM}, []),
    ({"question": "保修期多长？", "answer": "保修期为36个月。", "quote": TERM}, [NUMBER]),
    ({"question": "联系谁？", "answer": "请联系《客户服务中心》。", "quote": CONTACT}, []),
    ({"question": "联系谁？", "answer": "请联系《售后部》。", "quote": CONTACT}, [NAME]),
    ({"question": "联系谁？", "answer": "请联系Siemens客户服务中心。", "quote": CONTACT}, [NAME]),
    ({"question": "上文说保修期多长？", "answer": "保修期为24个月。", "quote": TERM}, [LEANS]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reasons"), JUDGED)
def test_a_row_stands_in_its_passage_or_says_why_not(changes, reasons):
    got = faults_of(Made(**{**RETURNS, **changes}), PASSAGE, "Pump P-7\nReturns")
    assert got == reasons and set(got) <= set(REASONS)


# ------------------------------------------------------------------ a server of the test's own


class Server:
    """Answers by a function of the passage; keeps what it was asked."""

    def __init__(self, answer: Callable[[dict], tuple[int, dict | str]], delay_s: float = 0.0) -> None:
        self.asked: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "maker"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(body | {"key": self.headers.get("authorization")})
                time.sleep(delay_s)
                status, said = answer(body)
                usage = {"prompt_tokens": 10, "completion_tokens": 5}
                chat = {"choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}
                self.reply(status, chat if status == 200 else said)

            def reply(self, status: int, body: dict) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving(answer: Callable[[dict], tuple[int, dict | str]], delay_s: float = 0.0) -> Iterator[Server]:
    one = Server(answer, delay_s)
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()


def passage_of(body: dict) -> str:
    return body["messages"][-1]["content"].split("Passage:\n")[1]


def by_passage(body: dict) -> tuple[int, str]:
    """A good row of returns with a false one beside it, prose for seals, nothing for the rest."""
    passage = passage_of(body)
    if "30 days" in passage:
        lie = {**RETURNS, "question": "How long is it free?", "answer": "For 90 days of delivery."}
        return 200, "<think>hm</think>```json\n" + json.dumps({"rows": [RETURNS, lie, RETURNS]}) + "\n```"
    return (200, "I would rather talk.") if "4 EUR" in passage else (200, '{"rows": []}')


def order_of(folder: Path, **more) -> MakeOrder:
    (folder / "guide.md").write_text(GUIDE)
    usual = {"documents": (folder / "guide.md",), "out": folder / "rows.jsonl", "chars": 120}
    return MakeOrder(**{**usual, **more})


def test_without_an_endpoint_passages_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    account = make_rows(order_of(tmp_path, ability="pumps"))
    made = lines_of(tmp_path / "rows.jsonl")
    assert [row["id"] for row in made] == ["guide.md:1", "guide.md:2", "guide.md:3"]
    assert made[0]["heading"] == ["Pump P-7", "Returns"] and made[0]["ability"] == "pumps"
    assert (account["documents"], account["passages"], account["unreadable"]) == (1, 3, [])
    assert "made" not in account and not (tmp_path / "rows.made.jsonl").exists()
    assert [r.text for r in rows(str(tmp_path / "rows.jsonl"))] == [row["text"] for row in made]


def test_made_rows_quote_their_passage_and_are_kept_apart(tmp_path):
    with serving(by_passage) as server:
        account = make_rows(order_of(tmp_path, ask=server.url, key="s3", at_once=2))
        (row,) = lines_of(tmp_path / "rows.made.jsonl")
        assert row == {
            "id": "guide.md:1#1", "passage": "guide.md:1", "made": True, "model": "maker",
            "source": "guide.md",
            "heading": ["Pump P-7", "Returns"], "quote": RETURNS["quote"],
            "messages": [{"role": "user", "content": RETURNS["question"]},
                         {"role": "assistant", "content": RETURNS["answer"]}],
        }  # fmt: skip
        refused = lines_of(tmp_path / "rows.refused.jsonl")
        assert [(r["passage"], r["reasons"]) for r in refused] == [
            ("guide.md:1", ["number_not_there"]), ("guide.md:1", ["asked_twice"]),
            ("guide.md:3", ["not_json"]),
        ]  # fmt: skip
        made = account["made"]
        assert made["made"] == made["rows"] + made["refused"] == 4 and made["passages_answered"] == 3
        assert (made["prompt_tokens"], made["completion_tokens"]) == (30, 15)
        assert all(body["key"] == "Bearer s3" and body["model"] == "maker" for body in server.asked)
        before = {p.name: p.read_bytes() for p in tmp_path.glob("rows.*")}
        make_rows(order_of(tmp_path, ask=server.url, key="s3"))
        assert len(server.asked) == 3 and {p.name: p.read_bytes() for p in tmp_path.glob("rows.*")} == before


def test_a_server_without_forms_or_with_a_queue_is_asked_again(tmp_path):
    busy = iter([429, 503])

    def answer(body):
        if "response_format" in body:
            return 400, {"error": {"message": "response_format is not known"}}
        status = next(busy, 200)
        return (200, by_passage(body)[1]) if status == 200 else (status, {"error": {"message": "busy"}})

    with serving(answer) as server:
        account = make_rows(order_of(tmp_path, ask=server.url + "/v1", at_once=1))
    assert account["made"]["rows"] == 1 and account["made"]["passages_answered"] == 3
    assert sum("response_format" in body for body in server.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(401, Lacking, "data.key_refused"), (404, WrongUse, "data.no_model"), (400, Lacking, "data.ask_failed")],
)
def test_what_the_server_refuses_is_one_clear_error(tmp_path, status, kind, code):
    with (
        serving(lambda body: (status, {"error": {"message": "no"}})) as server,
        pytest.raises(kind) as caught,
    ):
        make_rows(order_of(tmp_path, ask=server.url))
    assert caught.value.code == code and caught.value.hint


def test_no_server_is_one_clear_error(tmp_path):
    with pytest.raises(Lacking) as caught:
        make_rows(order_of(tmp_path, ask="http://127.0.0.1:9"))
    assert caught.value.code == "data.no_endpoint"


def test_a_file_of_others_is_not_written_over(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(WrongUse) as caught:
        make_rows(order_of(tmp_path))
    assert caught.value.code == "data.out_exists" and (tmp_path / "rows.jsonl").read_text() == "{}\n"


def test_nothing_to_read_is_one_clear_error(tmp_path):
    (tmp_path / "blank.md").write_text("\n")
    with pytest.raises(WrongUse) as caught:
        make_rows(MakeOrder(documents=(tmp_path / "blank.md",), out=tmp_path / "rows.jsonl"))
    assert caught.value.code == "data.no_passages"


# ------------------------------------------------------------------ stopped, killed


class Stopping(Watch):
    """Asks for a stop once the server has seen so many passages."""

    def __init__(self, server: Server, after: int) -> None:
        self.server, self.after = server, after

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return len(self.server.asked) >= self.after


PART = "# Part {n}\n\nPart {n} is made of steel and weighs {n} kilograms in all.\n\n"
MANY = "".join(PART.format(n=n) for n in range(30))


def of_part(body: dict) -> tuple[int, str]:
    text = passage_of(body).split("\n\n")[1]
    number = text.split()[1]
    row = {"question": f"What is part {number} made of?", "answer": "It is made of steel.", "quote": text}
    return 200, json.dumps({"rows": [row]})


def many_of(folder: Path, url: str) -> MakeOrder:
    (folder / "parts.md").write_text(MANY)
    out = folder / "rows.jsonl"
    return MakeOrder(documents=(folder / "parts.md",), out=out, chars=60, ask=url, at_once=2)


def test_stopped_it_goes_on_and_asks_for_nothing_twice(tmp_path):
    with serving(of_part) as server:
        with pytest.raises(Stopped):
            make_rows(many_of(tmp_path, server.url), Stopping(server, 7))
        first = len(server.asked)
        account = make_rows(many_of(tmp_path, server.url))
        assert 7 <= first < 30 and len(server.asked) == 30
    assert account["made"]["rows"] == 30


def test_killed_it_goes_on_to_the_same_bytes(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    with serving(of_part, delay_s=0.1) as server:
        make_rows(many_of(tmp_path / "whole", server.url))
        order = many_of(tmp_path / "killed", server.url)
        words = ["data", "make", str(order.documents[0]), "--out", str(order.out), "--ask", server.url]
        command = [sys.executable, "-m", "steelyard", *words, "--chars", "60", "--at-once", "2", "--json"]
        before = len(server.asked)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        while len(server.asked) < before + 9 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with open(order.beside("asked.jsonl"), "ab") as file:
            file.write(b'{"key": "torn')
        done = subprocess.run(command, capture_output=True, check=True)
        assert json.loads(done.stdout)["made"]["rows"] == 30
        assert len(server.asked) - before <= 30 + 2  # what was under way at the kill
    for name in ("rows.jsonl", "rows.made.jsonl", "rows.refused.jsonl", "rows.account.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


# ------------------------------------------------------------------ made rows among others


def made_of(number: int) -> dict:
    turns = [{"role": "user", "content": f"What does part {number} weigh?"},
             {"role": "assistant", "content": f"It weighs {number} kilograms."}]  # fmt: skip
    return {"messages": turns, "made": True, "passage": f"parts.md:{number}", "quote": "weighs", "model": "m"}


def test_made_rows_are_counted_apart_and_judge_nothing_where_people_wrote_some(tmp_path):
    real = [
        {"prompt": f"Where is part {n}?", "completion": f"Part {n} lies on shelf {n * 3}."} for n in range(40)
    ]
    for name, some in (("real.jsonl", real), ("made.jsonl", [*map(made_of, range(30)), made_of(3)])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    sources = [{"path": "real.jsonl"}, {"path": "made.jsonl"}]
    clean(Inputs(), {"sources": sources, "root": str(tmp_path)}, out, Watch())
    account = json.loads((out.folder / "account.json").read_bytes())
    assert account["made"] == 30 and [s.get("made") for s in account["sources"]] == [None, 30]
    test, train = lines_of(out.folder / "test.jsonl"), lines_of(out.folder / "train.jsonl")
    assert test and not any(row.get("made") for row in test)
    (one,) = [row for row in train if row.get("passage") == "parts.md:7"]
    assert one["made"] is True and one["quote"] == "weighs"
    alone = check({"sources": sources[1:], "root": str(tmp_path)})
    assert alone["abilities"]["main"]["test"] > 0
