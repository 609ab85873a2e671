"""The audit log: whatever is done to its lines is found, with the line; a crash is told apart from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steelyard.cli import main
from steelyard.errors import WrongUse
from steelyard.trust import ACTS, audit, check_log, read_acts, scan, signing_key, verifying_key
from steelyard.trust.audit import line as audit_line
from steelyard.trust.audit.check import KINDS

LINES = 24
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from steelyard.trust import audit
for n in range(int(sys.argv[1])):
    assert audit("model.exported", who=f"key-{n}", artefact="a" * 64, to="gguf") is None
    print(n, flush=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STEELYARD_AUDIT", str(tmp_path / "audit"))
    monkeypatch.setenv("STEELYARD_SIGNING_KEY", str(tmp_path / "keys" / "signing-key"))
    return tmp_path / "audit"


@pytest.fixture
def written(folder) -> list[bytes]:
    for n in range(LINES):
        assert audit("model.exported", artefact="a" * 64, to="gguf", number=n) is None
    return (folder / "log.jsonl").read_bytes().splitlines()


def report(folder: Path, lines: list[bytes] | None = None, tail: bytes = b""):
    if lines is not None:
        (folder / "log.jsonl").write_bytes(b"".join(line + b"\n" for line in lines) + tail)
    return check_log(folder, verifying_key(None))


def kinds(found) -> list[tuple[int, str]]:
    return [(finding.line, finding.kind) for finding in found.findings]


def test_a_log_as_it_was_written_is_intact(folder, written) -> None:
    found = report(folder)
    assert found.intact and found.lines == LINES and found.torn_bytes == 0
    assert [act["details"]["number"] for act in read_acts(folder)] == list(range(LINES))
    assert (folder / "log.jsonl").stat().st_mode & 0o777 == 0o600


def forged(line: bytes, old: bytes, new: bytes) -> bytes:
    assert old in line
    return line.replace(old, new)


TAMPERED = {
    "changed": (lambda w: [*w[:9], forged(w[9], b"gguf", b"ggux"), *w[10:]], [(10, "changed")]),
    "signature": (lambda w: [*w[:9], w[9][:-8] + b"AAAAAA" + w[9][-2:], *w[10:]], [(10, "changed")]),
    "last": (lambda w: [*w[:-1], forged(w[-1], b"gguf", b"ggux")], [(LINES, "changed")]),
    "first": (lambda w: [forged(w[0], b"gguf", b"ggux"), *w[1:]], [(1, "changed")]),
    "dropped": (lambda w: w[:9] + w[10:], [(10, "missing")]),
    "dropped first": (lambda w: w[3:], [(1, "missing")]),
    "swapped": (lambda w: [*w[:9], w[10], w[9], *w[11:]], [(10, "moved"), (11, "moved")]),
    "copied": (lambda w: [*w[:12], w[4], *w[12:]], [(13, "inserted")]),
    "foreign": (lambda w: [*w[:12], b'{"act": "nothing"}', *w[12:]], [(13, "inserted")]),
    "empty": (lambda w: [*w[:12], b"", *w[12:]], [(13, "inserted")]),
    "cut": (lambda w: w[:-3], [(LINES - 3, "cut")]),
    "changed and cut": (
        lambda w: [forged(w[0], b"gguf", b"ggux"), *w[1:-1]],
        [(1, "changed"), (LINES - 1, "cut")],
    ),
    "emptied": (lambda w: [], [(0, "cut")]),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_done_to_a_line_is_found_with_its_number(folder, written, case) -> None:
    change, expected = TAMPERED[case]
    assert kinds(report(folder, change(written))) == expected


def test_a_chain_that_was_made_anew_lacks_the_signatures(folder, written) -> None:
    lines = list(written)
    lines[9] = forged(lines[9], b"gguf", b"ggux")
    for n in range(10, LINES):
        before, now = audit_line.hash_of(written[n - 1]), audit_line.hash_of(lines[n - 1])
        lines[n] = forged(lines[n], before.encode(), now.encode())
    assert kinds(report(folder, lines))[0] == (10, "changed")


def test_every_byte_counts(folder, written) -> None:
    data = (folder / "log.jsonl").read_bytes()
    for at in range(0, len(data), 97):
        changed = bytearray(data)
        changed[at] ^= 1
        (folder / "log.jsonl").write_bytes(changed)
        found, line = report(folder), data.count(b"\n", 0, at) + 1
        # a newline is the end of one line and what parts it from the next
        assert {finding.line for finding in found.findings} & {line, line + 1, LINES - 1}, at


def test_a_torn_last_line_is_no_tampering_and_the_next_act_goes_on(folder, written) -> None:
    found = report(folder, written, tail=b'{"v":1,"seq":25,"at":"20')
    assert found.intact and found.torn_bytes == 24
    assert audit("file.sealed") is None
    found = report(folder)
    assert found.intact and found.lines == LINES + 1
    assert list(read_acts(folder))[-1]["torn_bytes"] == 24


def test_a_line_torn_within_what_its_head_names_is_a_cut(folder, written) -> None:
    for tail in (written[-1][:40], written[-1]):  # in the line; the newline alone
        found = report(folder, written[:-1], tail)
        assert kinds(found) == [(LINES - 1, "cut")] and found.torn_bytes == 0


def test_what_was_cut_stays_found_when_acts_follow(folder, written) -> None:
    report(folder, written[:-3])
    assert audit("file.sealed") is None
    assert kinds(report(folder)) == [(LINES - 2, "missing")]


def test_a_process_killed_before_the_head_was_written_leaves_a_sound_log(folder, written) -> None:
    before = {
        place: place.read_bytes() for place in (folder / "head.json", *folder.parent.rglob("audit-heads/*"))
    }
    assert audit("file.sealed") is None
    for place, data in before.items():
        place.write_bytes(data)
    assert report(folder).intact
    assert audit("file.opened") is None
    assert report(folder).intact and report(folder).lines == LINES + 2


def test_an_old_head_put_back_is_outdone_by_the_second(folder, written) -> None:
    old = (folder / "head.json").read_bytes()
    assert audit("file.sealed") is None
    (folder / "head.json").write_bytes(old)
    assert kinds(report(folder, written)) == [(LINES, "cut")]


def test_without_any_head_nothing_is_vouched_for(folder, written) -> None:
    for place in (folder / "head.json", *folder.parent.rglob("audit-heads/*")):
        place.unlink()
    assert kinds(report(folder)) == [(LINES, "head")]


def test_a_log_that_is_gone_or_was_begun_anew_is_found(folder, written) -> None:
    (folder / "log.jsonl").unlink()
    assert kinds(report(folder)) == [(0, "cut")]
    (folder / "head.json").unlink()
    assert kinds(report(folder)) == [(0, "cut")]
    assert audit("file.sealed") is None
    assert kinds(report(folder)) == [(1, "other")] or kinds(report(folder))[0][1] in ("missing", "other")


@pytest.mark.parametrize("hours", [0.001, 0.5, 48])
def test_a_clock_set_back_is_found(folder, written, monkeypatch, hours) -> None:
    real = time.time
    monkeypatch.setattr(audit_line.time, "time", lambda: real() - hours * 3600)
    assert audit("file.sealed") is None
    found = report(folder)
    assert kinds(found) == [(LINES + 1, "clock")]
    assert abs(found.findings[0].facts["back_s"] - hours * 3600) < 2


def test_a_clock_set_back_behind_a_long_pause_is_found_by_the_time_since_the_start(
    folder, monkeypatch
) -> None:
    real, up = time.time, time.clock_gettime
    assert audit("file.sealed") is None
    monkeypatch.setattr(audit_line.time, "clock_gettime", lambda clock: up(clock) + 3600)
    monkeypatch.setattr(audit_line.time, "time", lambda: real() + 1800)
    assert audit("file.sealed") is None
    assert kinds(report(folder)) == [(2, "clock")]


def test_another_key_does_not_vouch(folder, written, tmp_path, monkeypatch) -> None:
    public = signing_key().public
    monkeypatch.setenv("STEELYARD_SIGNING_KEY", str(tmp_path / "other"))
    assert not check_log(folder, verifying_key(signing_key().public)).intact
    (tmp_path / "pub").write_text(public + "\n")
    assert check_log(folder, verifying_key(str(tmp_path / "pub"))).intact
    with pytest.raises(WrongUse):
        verifying_key("steelyard-signing-1:AAAA")


def test_no_text_of_anybody_stands_in_it(folder, tmp_path) -> None:
    assert (
        audit("upload.deleted", who="Ann Example <ann@example.org>", file="/home/ann/my letter.txt") is None
    )
    text = (folder / "log.jsonl").read_text()
    assert "ann" not in text.lower() and "letter" not in text
    with pytest.raises(KeyError):
        audit("something.else")


def test_what_cannot_be_written_is_said_and_ends_nothing(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEELYARD_AUDIT", str(tmp_path / "file" / "audit"))
    assert isinstance(audit("file.sealed"), OSError)
    monkeypatch.setenv("STEELYARD_AUDIT", "off")
    assert audit("file.sealed") is None


def test_a_writer_that_is_killed_leaves_a_log_that_goes_on(folder) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, "10000"], stdout=subprocess.PIPE) as writer:
            for _ in range(6):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        assert report(folder).intact
    assert audit("file.sealed") is None
    assert report(folder).intact and report(folder).lines >= 19


def test_processes_that_write_at_once_make_one_chain(folder) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, "15"], stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = report(folder)
    assert found.intact and found.lines == 45


# ------------------------------------------------------------------ verbs


def called(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code or 0, capsys.readouterr().out


def test_verbs_write_their_acts_and_audit_shows_them(folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEELYARD_KEY_FILE", str(tmp_path / "key"))
    (tmp_path / "plain").write_text("a secret of Ann")
    assert called(capsys, "seal", "plain", "--output", "x.sealed")[0] == 0
    assert called(capsys, "open", "x.sealed", "--output", "again")[0] == 0
    assert called(capsys, "rotate", "x.sealed")[0] == 0
    assert called(capsys, "serve", "demo", "--keys", "keys.json", "--new-key", "ann@example.org")[0] == 0
    code, out = called(capsys, "audit", "show", "--json")
    lines = json.loads(out)["lines"]
    acts = [line["act"] for line in lines]
    assert code == 0 and acts == ["key.made", "file.sealed", "file.opened", "file.rotated", "key.made"]
    assert lines[1]["artefact"] == lines[2]["artefact"] == lines[3]["artefact"]
    assert lines[4]["details"]["key"].startswith("key-") and lines[4]["who"] == f"uid:{os.getuid()}"
    assert "ann" not in (folder / "log.jsonl").read_text()
    assert "file.opened" in called(capsys, "audit", "show", "--act", "file.opened")[1]


def test_a_refused_model_is_written_down(folder, tmp_path, monkeypatch) -> None:
    from steelyard.errors import CheckFailed
    from steelyard.trust import check_scanned

    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    assert scan(tmp_path / "m")[0].verdict == "unsafe"
    with pytest.raises(CheckFailed):
        check_scanned(tmp_path / "m")
    (act,) = read_acts(folder)
    assert act["act"] == "scan.refused" and act["outcome"] == "refused"
    assert act["details"] == {"file": "model.pkl"} and len(act["artefact"]) == 64


def test_verify_says_intact_or_which_line(folder, written, capsys) -> None:
    code, out = called(capsys, "audit", "verify", "--json")
    assert code == 0 and json.loads(out)["intact"] and json.loads(out)["lines"] == LINES
    public = called(capsys, "audit", "key")[1].strip()
    report(folder, [*written[:4], forged(written[4], b"gguf", b"ggux"), *written[5:]])
    code, out = called(capsys, "audit", "verify", "--key", public, "--log", str(folder))
    assert code == 4 and "line 5 was changed" in out
    code, out = called(capsys, "audit", "verify", "--json")
    assert code == 4 and json.loads(out)["findings"] == [
        {"line": 5, "kind": "changed", "text": "line 5 was changed"}
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("verify",), "trust.no_signing_key"),
        (("show",), "audit.none"),
        (("show", "--act", "nothing"), "cli.usage"),
        (("verify", "--key", "nonsense"), "trust.signing_key"),
    ],
)
def test_wrong_use_is_said(folder, capsys, words, code) -> None:
    status, out = called(capsys, "audit", *words, "--json")
    assert status == 2 and json.loads(out)["error"]["code"] == code


def test_a_log_that_is_off_is_said(capsys, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_AUDIT", "off")
    status, out = called(capsys, "audit", "show", "--json")
    assert status == 2 and json.loads(out)["error"]["code"] == "audit.off"


def test_every_finding_has_its_chinese() -> None:
    texts = json.loads((ROOT / "src/steelyard/cli/zh.json").read_text())["texts"]
    assert set(KINDS.values()) <= set(texts)
    assert all(texts_of_act for texts_of_act in ACTS.values())
