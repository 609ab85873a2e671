from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import Lacking, WrongUse
from steelyard.hardware import (
    CpuTimes,
    calibration,
    catalogue,
    cores_had,
    cpu_times,
    fair_share,
    free_bytes,
    measure,
    model_names,
    named_models,
    probe,
    read_table,
    resolve,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaudi3", "gaudi3"),
        ("Intel Gaudi-3", "gaudi3"),
        ("Xeon-8480+", "xeon-8480plus"),
        ("H100.SXM", "h100-sxm"),
        ("NVIDIA/H100-SXM", "h100-sxm"),
        ("Data Center GPU Max 1550", "max-1550"),
        ("Intel Xeon Platinum 8480+", "xeon-8480plus"),
        ("Xeon 8592+", "xeon-8592plus"),
        ("AMD Instinct MI300X", "mi300x"),
        ("H800", "h800-sxm"),
        ("NVIDIA L20", "l20"),
        ("RTX 6000 Ada", "rtx-6000-ada"),
        ("AMD EPYC 9755", "epyc-9755"),
        ("H20", "h20"),
    ],
)
def test_devices_are_found_by_any_spelling(name, expected):
    assert catalogue().find(name).id == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama3-70b"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama3-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2-1.5b"),
        ("llama-2-70b-chat-hf", "llama2-70b"),
        ("Qwen3-235B-A22B", "qwen3-235b-a22b"),
    ],
)
def test_models_are_found_by_any_spelling(name, expected):
    assert resolve(model_names(named_models()), name) == expected


def test_a_model_that_is_not_there_is_not_taken_for_another():
    assert resolve(model_names(named_models()), "llama3-9b") is None


def test_an_unknown_device_names_the_nearest():
    with pytest.raises(WrongUse) as caught:
        catalogue().find("gaudi9")
    assert "gaudi" in caught.value.hint


def test_every_device_has_what_a_plan_needs():
    assert len(catalogue()) >= 64 and len(named_models()) >= 98
    for device in catalogue():
        assert device.peaks or device.note, device.id  # Gaudi 1 never had a peak published
        assert device.memory_bytes > 1e9 and device.memory_bytes_per_s > 1e10, device.id
        assert device.source, device.id


def test_this_machine_is_priced_as_its_share_of_a_device():
    machine = probe()
    device = catalogue().find(machine.nearest_device)
    assert 1 <= machine.cores <= machine.threads and 0 < machine.share <= 1
    assert machine.memory_free_bytes <= machine.memory_bytes
    assert machine.price_usd_per_h == pytest.approx(device.price_usd_per_h * machine.share)
    assert machine.fingerprint == probe().fingerprint


@pytest.mark.parametrize(
    "names",
    [("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")],
)
def test_memory_that_files_hold_is_free_and_the_tightest_cgroup_counts(names, tmp_path, monkeypatch):
    limit, used, prefix = names
    for folder, row in {
        tmp_path / "pod": ("900", "500", 0),
        tmp_path / "pod/one": ("800", "790", 700),
    }.items():
        folder.mkdir()
        (folder / limit).write_text(row[0])
        (folder / used).write_text(row[1])
        (folder / "memory.stat").write_text(f"anon 1\n{prefix}inactive_file {row[2]}\n")
    monkeypatch.setattr(
        "steelyard.hardware.machine._cgroup_folders", lambda _: [tmp_path / "pod/one", tmp_path / "pod"]
    )
    assert free_bytes() == 400
    (tmp_path / "pod" / limit).write_text("max")
    assert free_bytes() == 710


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux affinity")
def test_cores_respect_affinity():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert probe().cores == 1
    finally:
        os.sched_setaffinity(0, before)


def test_measuring_is_done_once_and_names_what_it_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    shared(monkeypatch, 1.0)
    calls = []

    def good():
        calls.append(1)
        return [{"op": "decode", "s": 0.01}]

    def lacking():
        raise Lacking("package", "torch is not installed")

    def broken():
        raise KeyError("rows")

    machine = probe()
    first = measure(machine, {"training": lacking, "other": broken, "serving": good})
    assert first.of("decode")[0]["s"] == 0.01 and first.skipped["training"] == "torch is not installed"
    assert "KeyError" in first.skipped["other"]
    assert first.of("triad")[0]["bytes_per_s"] > 1e8 and first.of("gemm", m=512)
    again = measure(machine, {"serving": good})
    assert again.measured_s == 0 and again.rows == first.rows and again.hash == first.hash and calls == [1]


def test_a_damaged_cache_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    machine = probe()
    path = tmp_path / f"calibration-{machine.fingerprint[:16]}.json"
    path.write_text("{half")
    assert measure(machine).measured_s > 0
    assert json.loads(path.read_text())["fingerprint"] == machine.fingerprint


def shared(monkeypatch, *shares: float, quiet: bool = True) -> list[float]:
    """What others leave of the cores to one probe after the other; the last for all that follow."""
    left = list(shares)
    monkeypatch.setattr(calibration, "free_now", lambda: quiet)
    monkeypatch.setattr(
        calibration, "cores_had", lambda *_: left.pop(0) if len(left) > 1 else left[0] if left else 1.0
    )
    return left


def test_a_disturbed_probe_is_taken_again_and_the_best_one_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    machine, seconds = probe(), iter([4.0, 2.0, 3.0, 9.0])
    shared(monkeypatch, 1.0, 0.4, 0.7, 0.5)  # the machine's own probe, then three of ours
    probes = {"serving": lambda: [{"op": "decode", "s": next(seconds), "bytes_per_s": 7.0}]}
    first = measure(machine, probes)
    assert first.share == 0.7 and first.tries["serving"] == 2 and first.tries["machine"] == 1
    assert first.of("decode")[0]["s"] == pytest.approx(0.7 * 2.0)  # as it would be with all cores
    assert first.of("decode")[0]["bytes_per_s"] == pytest.approx(7.0 / 0.7)
    again = measure(machine, probes)  # a later plan: once more, and no better
    assert again.share == 0.7 and again.tries["serving"] == 3
    assert measure(machine, probes).measured_s == 0  # three are enough


def test_a_calibration_of_a_busy_hour_is_taken_again_in_a_quiet_one(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    machine = probe()
    shared(monkeypatch, 0.3, quiet=False)
    assert measure(machine).share == 0.3
    assert measure(machine).measured_s == 0  # not while others still compute
    shared(monkeypatch, 1.0)
    assert measure(machine).share == 1.0
    assert measure(machine).measured_s == 0


@given(st.integers(1, 64), st.floats(0.2, 1e4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_share_of_the_cores_is_what_others_leave(cpus, wall_s, own, others, quota):
    usable = max(1, round(quota * cpus))
    spent = CpuTimes(wall_s, (own + others) * cpus * wall_s, own * cpus * wall_s)
    share = cores_had(CpuTimes(0.0, 0.0, 0.0), spent, cpus, usable)
    assert 0 < share <= 1
    assert share == pytest.approx(max(0.05, min(1.0, (1 - others) * cpus / usable)), rel=1e-6)
    more = CpuTimes(wall_s, spent.all_s + 0.1 * cpus * wall_s, spent.own_s)
    assert cores_had(CpuTimes(0.0, 0.0, 0.0), more, cpus, usable) <= share


@given(st.integers(1, 64), st.floats(0.2, 1e4), st.floats(0, 1), st.floats(0, 1))
def test_beside_others_a_program_gets_its_fair_share(cores, wall_s, own, others):
    spent = CpuTimes(wall_s, (own + others) * cores * wall_s, own * cores * wall_s)
    share = fair_share(CpuTimes(0.0, 0.0, 0.0), spent, cores)
    assert share == pytest.approx(1 / (1 + others)) and 0.5 <= share <= 1


def test_what_this_process_computes_is_not_others_work():
    before = cpu_times()
    total = sum(i * i for i in range(3_000_000))
    after = cpu_times()
    assert total and 0 < after.own_s - before.own_s <= after.clock_s - before.clock_s + 0.1
    assert cores_had(before, before) == 1.0  # too short to tell


def test_a_bad_table_names_file_line_and_column(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,value\n1,2,3\n")
    with pytest.raises(WrongUse) as caught:
        read_table(path, ("id", "metric"))
    assert caught.value.where.field == "metric"
    with pytest.raises(WrongUse) as caught:
        read_table(path)
    assert caught.value.where.line == 2
