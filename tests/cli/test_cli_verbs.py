"""What the verbs print: results on stdout, documents with --json. Long jobs are tested with the run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard import recipe

CLI = Path(__file__).resolve().parents[2] / "src" / "steelyard" / "cli"


def document(done) -> dict:
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_init_writes_what_loads(steelyard, tmp_path, language) -> None:
    told = document(steelyard("init", "desk", "--lang", language, "--json"))
    assert told["written"] == ["desk/steelyard.yaml", "desk/data/orders.jsonl"]
    made = recipe.load(tmp_path / "desk")
    assert (made.name, made.model, made.abilities) == ("desk", "demo", ("orders",))
    rows = (tmp_path / "desk/data/orders.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(rows)) == len(rows) >= 200
    assert ("请发" in rows[0]) == (language == "zh")


def test_init_never_overwrites(steelyard, tmp_path) -> None:
    assert steelyard("init", "desk").returncode == 0
    (tmp_path / "desk/steelyard.yaml").write_text("mine")
    done = steelyard("init", "desk", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == "init.exists"
    assert (tmp_path / "desk/steelyard.yaml").read_text() == "mine"
    assert steelyard("init", "desk", "--force").returncode == 0


def test_init_knows_the_columns_of_a_table(steelyard, tmp_path) -> None:
    (tmp_path / "工单.csv").write_bytes("问题,回复\n你好,您好\n再见,再会\n".encode("gb18030"))
    assert steelyard("init", "desk", "--data", "工单.csv", "--model", "org/name").returncode == 0
    made = recipe.load(tmp_path / "desk")
    assert (made.data[0].path, made.data[0].ability) == ("../工单.csv", "工单")
    assert made.data[0].map == {"user": "问题", "assistant": "回复"}
    assert made.model == "org/name"


def test_init_leaves_a_map_to_fill_in_and_validate_names_its_line(steelyard, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    done = steelyard("init", "--data", "t.csv")
    assert done.returncode == 0 and "(a, b)" in done.stderr and "validate" in done.stdout
    lines = (tmp_path / "steelyard.yaml").read_text().splitlines()
    at = next(n for n, line in enumerate(lines, 1) if "# map: {user: COLUMN, assistant: COLUMN}" in line)
    error = json.loads(steelyard("validate", "--json").stdout)["error"]
    assert error["code"] == "data.no_shape"
    assert error["where"] == {"file": "steelyard.yaml", "line": at, "field": "data.0.map"}
    (tmp_path / "steelyard.yaml").write_text(
        "\n".join(lines).replace("# map: {user: COLUMN, assistant: COLUMN}", "map: {user: a, assistant: c}")
    )
    error = json.loads(steelyard("validate", "--json").stdout)["error"]
    assert (error["code"], error["where"]["line"]) == ("data.missing_column", at)


def test_init_never_takes_a_lone_text_column_for_training_data(steelyard, tmp_path) -> None:
    """subject, body, answer became `map: {text: body}`: the answers were dropped in silence."""
    (tmp_path / "t.csv").write_text("id,text\n1,some words of a person\n2,more words of a person\n")
    assert steelyard("init", "--data", "t.csv", "--yes").returncode == 0
    assert recipe.load(tmp_path).data[0].map == {}
    assert json.loads(steelyard("validate", "--json").stdout)["error"]["code"] == "data.no_shape"


def test_init_says_what_it_guessed_and_on_how_many_rows(steelyard, tmp_path) -> None:
    rows = [f"T{i},Order {i},Where is my order {i}?,It comes on day {i}." for i in range(20)]
    (tmp_path / "t.csv").write_text("ticket_id,subject,body,answer\n" + "\n".join([*rows, "T20,,,lost"]))
    done = steelyard("init", "--data", "t.csv", "--yes")
    assert "guessed user = subject + body, assistant = answer" in done.stderr and "20 of 21" in done.stderr
    assert recipe.load(tmp_path).data[0].map == {"user": ["subject", "body"], "assistant": "answer"}
    made = document(steelyard("validate", "--json"))["data"]
    assert (made["read"], made["kept"], made["by_reason"]) == (21, 20, {"empty": 1})


def test_init_takes_a_map_and_refuses_a_wrong_one(steelyard, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("eins,zwei,drei\n" + "".join(f"a{i},b{i},c{i}\n" for i in range(9)))
    assert steelyard("init", "--data", "t.csv", "--map", "question=eins+zwei,answer=drei").returncode == 0
    assert recipe.load(tmp_path).data[0].map == {"user": ["eins", "zwei"], "assistant": "drei"}
    for map, hint in (("user=einz,assistant=drei", "eins"), ("usr=eins", "user"), ("user", "--map user=")):
        done = steelyard("init", "--force", "--data", "t.csv", "--map", map, "--json")
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 2 and hint in error["hint"]


def test_clean_maps_columns_and_masks_unless_told_otherwise(steelyard, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("customer message,agent reply\nHow do I write?,To a@b.com.\n")
    done = steelyard("clean", "--input", "t.csv", "--output", "out", "--json")
    hint = json.loads(done.stdout)["error"]["hint"]
    assert done.returncode == 2 and "--map user=customer message,assistant=agent reply" in hint
    map = "user=customer message,assistant=agent reply"
    document(steelyard("clean", "--input", "t.csv", "--output", "out", "--map", map, "--json"))
    assert "<EMAIL_1>" in (tmp_path / "out/t.jsonl").read_text()
    made = document(
        steelyard("clean", "--input", "t.csv", "--output", "o2", "--map", map, "--pii", "report", "--json")
    )
    assert "a@b.com" in (tmp_path / "o2/t.jsonl").read_text() and made["personal"] == {"email": 1}
    assert steelyard("clean", "--input", "t.csv", "--output", "o3", "--pii", "no").returncode == 2


def test_validate_shows_values_and_origins(steelyard, tmp_path) -> None:
    (tmp_path / "steelyard.yaml").write_text("model: demo\ntrain: []\ngate: {abilities: {x: {min: 0.5}}}\n")
    told = document(steelyard("validate", "--json", "--set", "serve.port=9000"))
    assert told["schema"] == "steelyard.validate/1"
    assert told["values"]["serve.port"] == {"value": 9000, "origin": "--set"}
    assert told["values"]["model"] == {"value": "demo", "origin": "steelyard.yaml:1"}
    assert "no quality gate" in told["notes"][0]
    people = steelyard("validate")
    assert people.stdout.startswith("steelyard.yaml is a good recipe")
    assert people.stdout.rstrip().endswith("next: steelyard up steelyard.yaml")
    assert "note: train is []" in people.stderr
    assert steelyard("-q", "validate").stderr == ""


TRL = """#!/bin/sh
case "$*" in
  *device_count*) echo '{}';;
  *) echo '{"torch": "2", "trl": "1", "peft": "0", "transformers": "5", "accelerate": "1", "datasets": "5"}';;
esac
"""


def test_validate_passes_a_device_that_another_machine_has_and_says_so(steelyard, tmp_path) -> None:
    """The interpreter stands in for a TRL whose torch finds no accelerator."""
    (tmp_path / "python").write_text(TRL)
    (tmp_path / "python").chmod(0o755)
    rows = [{"prompt": f"count {i}", "completion": f"{i} {i + 1}"} for i in range(60)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = "model: demo\ndata: [{path: r.jsonl}]\ntrain: [{stage: sft, device: xpu}]\n"
    (tmp_path / "steelyard.yaml").write_text(recipe)
    done = steelyard("validate", "--json", env={"STEELYARD_TRL_PYTHON": str(tmp_path / "python")})
    assert document(done)["absent_devices"] == ["xpu"]
    assert "no xpu device can be used here: `up` will refuse" in done.stderr


HEAD = (
    "id,source,url,date,phase,model,params_b,layers,hidden,heads,kv_heads,ffn,vocab,precision,weight_bits,"
    "kv_bits,device,devices,devices_per_node,interconnect,framework,dp,tp,pp,cp,micro_batch,global_batch,"
    "seq_len,prompt_len,output_len,concurrency,recompute,zero_stage,metric,unit,value,confidence,note"
)
ROW = (
    "r1,paper,url,2024,serve,qwen2-7b,7.62,28,3584,28,4,18944,152064,fp16,16,16,mi250,1,4,,llama.cpp,,,,,1,,,"
    "128,128,1,,,output_tokens_per_s,tokens/s,{value},low,{note}"
)


def test_validate_results_never_looks_at_the_value(steelyard, tmp_path) -> None:
    outs = []
    for name, value, note in (("full", "20.3", "a note"), ("empty", "", "")):
        (tmp_path / f"{name}.csv").write_text(f"{HEAD}\n{ROW.format(value=value, note=note)}\n")
        told = document(steelyard("validate", f"{name}.csv", "--json", "--predictions", f"{name}.json"))
        assert told["rows"] == 1
        outs.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert outs[0] == outs[1]
    (found,) = outs[0]["predictions"]
    assert found["id"] == "r1" and found["low"] < found["value"] < found["high"] and found["reason"] is None


def test_plan_of_a_named_model(steelyard) -> None:
    told = document(steelyard("plan", "--model", "LLAMA 3 8b".replace(" ", "-"), "--tokens", "1e9", "--json"))
    assert {"request", "plans", "best", "frontier", "considered", "divide", "fit", "wall_s"} <= set(told)
    best = told["plans"][told["best"]]
    assert best["fits"] and best["time_s"]["low"] < best["time_s"]["value"] < best["time_s"]["high"]


def test_hardware(steelyard) -> None:
    told = document(steelyard("hardware", "--json"))
    assert len(told["devices"]) >= 60 and told["machine"]["cores"] >= 1
    assert document(steelyard("hardware", "XEON 8380".replace(" ", "-"), "--json"))["id"] == "xeon-8380"


def test_status_and_ledger_of_a_new_user_are_empty(steelyard) -> None:
    assert document(steelyard("status", "--json"))["runs"] == []
    assert document(steelyard("ledger", "--json"))["rows"] == []
    assert "the ledger is empty" in steelyard("ledger").stdout


def test_clean_gives_account(steelyard, tmp_path) -> None:
    row = {
        "messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hi, all"}]
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\nnot json\n")
    told = document(steelyard("clean", "--input", "in", "--output", "out", "--json"))
    assert (told["in"], told["kept"], told["dropped"]) == (3, 1, 2)
    assert (tmp_path / "out/report.json").exists() and (tmp_path / "out/dropped.jsonl").exists()


def test_scan_finds_a_pickle_that_runs_code(steelyard, tmp_path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    done = steelyard("scan", "m", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["files"][0]["verdict"] == "unsafe"


def test_a_verb_reads_no_other_verbs_file() -> None:
    ask = "import sys; from steelyard.cli.app import make; make(['plan', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    files = {name for name in loaded.split() if name.startswith("steelyard.cli.verbs.")}
    assert files == {"steelyard.cli.verbs.plans", "steelyard.cli.verbs.recipes"}


def test_every_text_has_its_chinese() -> None:
    texts = json.loads((CLI / "zh.json").read_text(encoding="utf-8"))["texts"]
    said = set()
    for path in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say" and node.args:
                said |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    from steelyard.cli.app import VERBS

    said |= {text for _, _, text in VERBS}
    assert said - set(texts) == set()


def test_a_translation_keeps_its_fields() -> None:
    import re

    texts = json.loads((CLI / "zh.json").read_text(encoding="utf-8"))["texts"]
    for english, chinese in texts.items():
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", chinese)), english


CHAT = '{"messages": [{"role": "user", "content": "q %d"}, {"role": "assistant", "content": "a"}]}\n'
GOOD = "model: demo\ndata: [{path: rows.jsonl}]\n"


def validated(steelyard, tmp_path, recipe: str, rows: str | None) -> tuple[int, dict]:
    (tmp_path / "steelyard.yaml").write_text(recipe)
    if rows is not None:
        (tmp_path / "rows.jsonl").write_text(rows)
    done = steelyard("validate", "--json")
    return done.returncode, json.loads(done.stdout)


CHATS = "".join(CHAT % n for n in range(60))


@pytest.mark.parametrize(
    ("recipe", "rows", "code"),
    [
        (GOOD, None, "data.missing_file"),
        (GOOD, CHATS + '{"messages": [\n', "data."),
        (GOOD + "serve: {keys: keys.json}\n", CHATS, "serve.file_missing"),
        (GOOD + "serve: {adapters: {refunds: nowhere}}\n", CHATS, "serve.file_missing"),
        ("model: ./nowhere\ndata: [{path: rows.jsonl}]\n", CHATS, "model."),
    ],
)
def test_validate_refuses_what_up_would_refuse(steelyard, tmp_path, recipe, rows, code: str) -> None:
    exit_code, told = validated(steelyard, tmp_path, recipe, rows)
    assert exit_code == 2 and told["error"]["code"].startswith(code), told


def test_validate_shows_what_the_plan_fills(steelyard, tmp_path) -> None:
    exit_code, told = validated(steelyard, tmp_path, GOOD + "train: [{learning_rate: 1.0e-3}]\n", CHATS)
    values = told["values"]
    assert exit_code == 0, told
    assert values["train.0.lora_rank"] == {"value": 16, "origin": "plan: enough for one task"}
    assert values["train.0.learning_rate"] == {"value": 1e-3, "origin": "steelyard.yaml:3"}
    assert all(values[f"train.0.{name}"]["value"] for name in ("max_length", "num_train_epochs", "packing"))
    assert told["facts"]["rows"] + told["facts"]["held_out"] == 60
    people = steelyard("validate").stdout
    assert "(the plan fills it)" not in people and "plan: enough for one task" in people
    assert max(map(len, people.splitlines())) <= 80


def test_init_on_a_terminal_shows_the_columns_and_asks(tmp_path) -> None:
    """The question and the answer are named by the person who knows; an empty name leaves them to fill in."""
    rows = "".join(f"K{i},was {i},so {i}\n" for i in range(9))
    (tmp_path / "t.csv").write_text("key,eins,zwei\n" + rows)
    for typed, map in (("eins\nzwei\n", {"user": "eins", "assistant": "zwei"}), ("\n\n", {})):
        shown = on_a_terminal(
            tmp_path, "init", "--force", "--data", "t.csv", "--name", "desk", typed="\n\n" + typed
        )
        assert "eins: was 0 | was 1 | was 2" in shown and "the question" in shown
        assert recipe.load(tmp_path).data[0].map == map


def on_a_terminal(folder: Path, *words: str, typed: str) -> str:
    """What a verb writes to standard error with a terminal as its input."""
    import os
    import subprocess
    import sys

    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "200", "STEELYARD_LANG": "en", "HOME": str(folder)}
    child = subprocess.Popen(
        [sys.executable, "-m", "steelyard", *words], cwd=folder, env=environment, stdin=theirs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.write(ours, typed.encode())
    _, errors = child.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 0, errors
    return errors


def test_engines_lists_what_trains_and_serves(steelyard, tmp_path) -> None:
    data = {"STEELYARD_DATA": str(tmp_path / "data")}
    rows = document(steelyard("engines", "--json", env=data))["engines"]
    found = {(row["engine"], row["for"]): row for row in rows}
    assert found["own", "training"]["unusable"] is None
    trl = found["trl", "training"]
    assert str(tmp_path / "data") in trl["unusable"] and trl["untested"] == ["cuda", "xpu", "hpu"]
    assert ("openvino", "serving") in found
    assert "steelyard engines install trl" in steelyard("engines", "list", env=data).stdout
    for words, code in ((("install", "axolotl"), "train.engine"), (("remove", "trl"), "cli.usage")):
        done = steelyard("engines", *words, "--json", env=data)
        assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == code


def test_every_verb_stands_under_one_heading_of_the_help():
    from steelyard.cli.app import SECTIONS, VERBS

    shown = [name for names in SECTIONS.values() for name in names.split()]
    assert sorted(shown) == sorted({name.split()[0] for name, _, _ in VERBS})
