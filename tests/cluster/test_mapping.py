"""A pure function over items in order on the nodes of a cluster: in any trouble the answers are the same.

Nodes are played (played_nodes.py) where no Ray is; the processes that work are real. What needs Ray is marked
trl and skipped without.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray_pair import FIRST, SECOND, two_nodes

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.cluster import cluster_address, on_nodes
from steelyard.cluster.nodes import WORKER
from steelyard.cluster.through_ray import process
from steelyard.cluster.through_ray.ray_child import assignment, place
from steelyard.data import clean, clean_files
from steelyard.errors import Lacking, Stopped, WrongUse
from steelyard.model import trl_package
from steelyard.run.child.children import run_step
from steelyard.trust import cluster_keys as keys

CODE = "data:clean_files"
DOUBLE = functools.partial(operator.mul, 2)

# ------------------------------------------------------------------ which piece is with which place


@given(st.lists(st.sampled_from("adlx"), max_size=200), st.integers(0, 2**32))
def test_every_piece_is_answered_whatever_is_lost(events, seed):
    """a: a piece comes; d: one is done; l: a place is lost; x: a process ends at a piece."""
    dice, work, answered, place_number, count = random.Random(seed), assignment.Assignment(), [], 0, 0
    places = [0, 1, 2]

    def hand_out():
        for one in places:
            while work.next_for(one, 0.0) is not None:
                assert len(work.held[one]) <= assignment.DEPTH

    for event in events:
        hand_out()
        busy = [one for one in places if work.held.get(one)]
        if event == "a":
            work.add(count, b"")
            count += 1
        elif event == "l" and len(places) > 1:
            lost = dice.choice(places)
            places.remove(lost)
            work.lost(lost)
            place_number = max(place_number, *places) + 1
            places.append(place_number)
        elif busy:
            one = dice.choice(busy)
            number = min(work.held[one])
            if event == "x":
                work.died(one, number)
            elif event == "d" and work.done(one, number):
                answered.append(number)
    for _ in range(count + 1):
        hand_out()
        for one in places:
            for number in list(work.held.get(one, ())):
                answered += [number] if work.done(one, number) else []
    assert sorted(answered) == list(range(count)) and not work.pieces and not work.waiting


def test_a_piece_that_takes_long_is_given_to_one_more_idle_place():
    work = assignment.Assignment()
    work.add(0, b"")
    assert work.next_for(1, 0.0) == 0 and work.next_for(2, assignment.SLOW_S) is None
    assert work.next_for(2, assignment.SLOW_S + 1) == 0 and work.next_for(3, 10 * assignment.SLOW_S) is None
    assert work.done(2, 0) and not work.done(1, 0)


def test_a_piece_that_ends_three_processes_is_not_tried_again():
    work = assignment.Assignment()
    work.add(0, b"")
    for one in range(assignment.DEADLY):
        assert work.next_for(one, 0.0) == 0
        assert work.died(one, 0) == (one == assignment.DEADLY - 1)


def test_both_sides_call_the_variable_the_same():
    assert place.WORKER == WORKER


# ------------------------------------------------------------------ played nodes, real processes


class Listening(Watch):
    def __init__(self):
        self.hosts = []

    def log(self, event, **fields):
        if event == "cluster.nodes":
            self.hosts.append(fields["hosts"])


@pytest.fixture
def played(played_ray):
    """played(**what goes wrong): the context of `on_nodes`, without Ray."""

    def use(watch=None, hosts=(), **wrong):
        played_ray(**wrong)
        return on_nodes("10.0.0.1", CODE, watch or Watch(), hosts=hosts)

    return use


WRONG = {"nothing": {}, "a worker": {"kill_worker_at": 9}, "a node": {"lose_node_at": 9},
         "a node is silent": {"silent": True}, "a node comes": {"comes": True}}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_answers_come_in_order_whatever_is_lost(played, wrong):
    watch = Listening()
    with played(watch, **wrong) as map_items:
        assert list(map_items(DOUBLE, iter(range(40)))) == [(n, 2 * n) for n in range(40)]
    assert ["10.0.0.1", "10.0.0.2"] in watch.hosts or "lose_node_at" in wrong


def test_an_error_of_the_function_is_raised_here(played):
    with played() as map_items, pytest.raises(ZeroDivisionError):
        list(map_items(functools.partial(operator.floordiv, 6), iter([3, 2, 1, 0])))


def test_a_process_that_a_piece_ends_again_and_again_is_said(played):
    with played() as map_items, pytest.raises(Lacking, match="the same piece of work ended three processes"):
        list(map_items(os._exit, iter([7])))


def test_a_node_with_other_code_is_refused(played):
    with played(other_code=True) as map_items, pytest.raises(Lacking, match="runs other code") as refused:
        list(map_items(DOUBLE, iter([1])))
    assert "numpy 0.1, here" in refused.value.why and "files of steelyard" in refused.value.why


def test_without_a_node_that_works_it_ends(played):
    with played(none=True) as map_items, pytest.raises(Lacking, match="no host of the cluster is left"):
        list(map_items(DOUBLE, iter([1])))


def test_it_stops_when_it_is_asked_to(played):
    watch = Listening()
    with played(watch) as map_items, pytest.raises(Stopped):
        for _ in map_items(time.sleep, iter([0.01] * 1000)):
            watch.stop = True


# ------------------------------------------------------------------ cleaning


def dirty(path, rows):
    """Duplicates, near-duplicates, personal data, broken lines, chats."""
    dice = random.Random(1)
    words = [f"word{n}" for n in range(400)] + ["订单", "退款", "发货"]
    lines = []
    for number in range(rows):
        text = " ".join(dice.choices(words, k=60))
        if number % 7 == 0:
            text += f" a{number}@mail.example"
        if number % 11 == 0 and lines:
            lines.append(dice.choice(lines))
        elif number % 13 == 0:
            lines.append('{"text": broken')
        elif number % 5 == 0:
            lines.append(json.dumps({"prompt": text, "completion": text[::-1]}))
        else:
            lines.append(json.dumps({"id": number, "text": text}))
    path.write_text("\n".join(lines) + "\n")
    return path


def written(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def test_clean_writes_the_bytes_of_one_machine(played, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[clean_files.__module__], "BLOCK_BYTES", 1 << 16)
    source = dirty(tmp_path / "a.jsonl", 1000)
    one = clean_files(source, tmp_path / "one")
    several = clean_files(source, tmp_path / "two", others=played(lose_node_at=3))
    assert written(tmp_path / "one") == written(tmp_path / "two") and one["dropped"] > 50
    assert {**one, "seconds": 0, "mb_per_s": 0} == {**several, "seconds": 0, "mb_per_s": 0}


LONG = "word " * 500


def tokenizer(folder):
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    import tiny  # it loads torch

    return tiny.model(folder / "base")


def recipe_settings(source, **clean):
    """A recipe's cleaning in which all happens: masks, an evaluation file, held-out rows, rows too long."""
    rows = source.with_name("eval.jsonl")
    first = [line for line in source.read_text().splitlines() if "prompt" in line][:3]
    rows.write_text("\n".join(first) + "\n")
    with source.open("a") as file:
        file.write(json.dumps({"prompt": LONG, "completion": "word"}) + "\n")
    sources = [{"path": str(source), "ability": "a"}, {"path": str(source), "ability": "b"}]
    rules = {
        "unreadable": "drop",
        "pii": "mask",
        "max_tokens": 2000,
        "split": "near",
        "test_share": 0.1,
    } | clean
    return {"sources": sources, "clean": rules, "eval": {"a": str(rows)}, "root": "/"}


def cleaned(folder, settings, base, others=None):
    """The payload of the step's artefact."""
    draft = Store(folder).draft("dataset", "0" * 64, "clean", settings, {"base": base})
    clean(Inputs({"base": base}, {"others": others} if others else {}), settings, draft, Watch())
    return {path.name: path.read_bytes() for path in draft.folder.iterdir()}


def test_a_recipe_is_cleaned_to_the_bytes_of_one_machine(played, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["steelyard.data.cleaning"], "BATCH_ROWS", 32)
    base, source = adopt(tokenizer(tmp_path)), dirty(tmp_path / "a.jsonl", 250)
    settings = recipe_settings(source)
    one = cleaned(tmp_path / "one", settings, base)
    two = cleaned(tmp_path / "two", settings, base, lambda watch: played(watch, lose_node_at=3))
    assert one == two and json.loads(one["account.json"])["by_reason"]["too_long"] == 2


def test_a_line_that_stops_a_recipe_stops_it_elsewhere_too(played, tmp_path):
    base, source = adopt(tokenizer(tmp_path)), dirty(tmp_path / "a.jsonl", 40)
    settings = recipe_settings(source, unreadable="stop")
    with pytest.raises(WrongUse, match="cannot be read"):
        cleaned(tmp_path / "one", settings, base, lambda watch: played(watch))


def test_hosts_that_are_not_named_do_not_work(played):
    watch = Listening()
    with played(watch, hosts=("10.0.0.2",), named=1) as map_items:
        assert len(list(map_items(DOUBLE, iter(range(9))))) == 9
    assert {host for hosts in watch.hosts for host in hosts} == {"10.0.0.2"}


@pytest.mark.parametrize(
    "address", ["", ":6379", "10.0.0.1:abc", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.1:-1"]
)
def test_what_is_no_address_is_said(address):
    with pytest.raises(WrongUse, match="is no address of a head"):
        cluster_address((), address)


def test_a_cluster_that_is_not_there_leaves_nothing(tmp_path, monkeypatch):
    from steelyard.cli.verbs.data.cleaning import nodes_of

    monkeypatch.setenv(keys.VARIABLE, str(keys.make_keys(tmp_path / "k", ["127.0.0.1"])[0]))
    monkeypatch.setattr(process, "check_ray", lambda where: None)
    with pytest.raises(Lacking, match="no cluster can be reached"):
        source = dirty(tmp_path / "a.jsonl", 10)
        clean_files(source, tmp_path / "out", others=nodes_of("127.0.0.1:1", None, Watch()))
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(WrongUse, match="does not go with"):
        nodes_of("127.0.0.1:1", tmp_path, Watch())


# ------------------------------------------------------------------ with Ray

WITH_RAY = [
    pytest.mark.skipif(sys.platform != "linux", reason="several addresses of the loopback"),
    pytest.mark.trl,
    pytest.mark.timeout(600),
    pytest.mark.skipif(trl_package("ray") is None, reason="no Ray in the environment of trl"),
]
PORT = 6427


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """(address of the head, the second one's process)."""
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/sm{os.getpid()}")
    with two_nodes(tmp_path, PORT, monkeypatch) as pair:
        yield pair


class Killing(Listening):
    """Ends all processes of the second node once both work."""

    def __init__(self, child):
        super().__init__()
        self.child, self.dead = child, False

    def log(self, event, **fields):
        super().log(event, **fields)
        if fields.get("hosts") == [FIRST, SECOND] and not self.dead:
            self.dead = True
            for pid in descendants(self.child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def descendants(pid):
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


@pytest.mark.parametrize("rows", [pytest.param(24000, marks=WITH_RAY)])
def test_a_node_of_ray_that_is_killed_changes_no_byte(rows, nodes, tmp_path):
    source, (address, second) = dirty(tmp_path / "a.jsonl", rows), nodes
    clean_files(source, tmp_path / "one")
    watch = Killing(second)
    clean_files(source, tmp_path / "two", others=on_nodes(address, CODE, watch))
    assert watch.dead and watch.hosts[-1] == [FIRST]
    assert written(tmp_path / "one") == written(tmp_path / "two")


@pytest.mark.parametrize("rows", [pytest.param(12000, marks=WITH_RAY)])
def test_a_recipe_is_cleaned_by_nodes_of_ray_of_which_one_is_killed(rows, nodes, tmp_path):
    base, source, (address, second) = adopt(tokenizer(tmp_path)), dirty(tmp_path / "a.jsonl", rows), nodes
    settings = recipe_settings(source)
    one = cleaned(tmp_path / "one", settings, base)
    store = Store(tmp_path / "two")
    on = {"hosts": [FIRST, SECOND], "ray": address}
    draft = store.draft("dataset", "0" * 64, "clean", settings | on, {"base": base})
    watch = Killing(second)
    run_step("data:clean", {"base": base}, draft, store.folder, None, watch, others="cluster:on_nodes")
    assert watch.dead and watch.hosts[-1] == [FIRST]
    assert one == {path.name: path.read_bytes() for path in draft.folder.iterdir()}
