"""Recorded hosts give the findings that they should, and no others; the probe, the mending, the table."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard import doctor
from steelyard.doctor import between, examine, mend, probe, snapshot, worst
from steelyard.doctor.compatibility import pairs
from steelyard.doctor.versions import compared, numbers, requirement, satisfies, within
from steelyard.errors import WrongUse

sys.path.insert(0, str(Path(__file__).parent))
from recorded import broken_host, laid_over, load, wrong

BROKEN, HEALTHY, TOGETHER = load("broken"), load("healthy"), load("together")
PROBE = Path(doctor.__file__).with_name("probe.py")


# ------------------------------------------------------------------ recorded hosts


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_host_is_found_with_its_cause_and_nothing_else(name):
    assert wrong(examine(broken_host(BROKEN[name]))) == [BROKEN[name]["cause"]]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_host_gives_no_finding(name):
    assert wrong(examine(HEALTHY[name]["snapshot"])) == []


@pytest.mark.parametrize("name", TOGETHER)
def test_what_differs_between_hosts_is_found_and_each_alone_is_fine(name):
    case = TOGETHER[name]
    hosts = [laid_over(HEALTHY[h["on"]]["snapshot"], h["overlay"]) for h in case["hosts"]]
    assert [wrong(examine(host)) for host in hosts] == [[]] * len(hosts)
    found = between({f"host{n}": host for n, host in enumerate(hosts)})
    assert case["cause"] in wrong(found) and set(wrong(found)) <= {case["cause"], "clash.package"}
    assert between({"alone": hosts[0]}) == []


def test_equal_hosts_do_not_clash():
    for name, case in HEALTHY.items():
        assert between({"a": case["snapshot"], "b": case["snapshot"]}) == [], name


def disk(**more):
    """The work disk of a host, otherwise sound."""
    sound = {
        "use": "work",
        "path": "/home/user",
        "mount": "/",
        "type": "ext4",
        "options": "rw",
        "free_bytes": 8e11,
    }
    return [sound | {"total_bytes": 1e12, "free_inodes": 1e8, "total_inodes": 1.2e8} | more]


MEMINFO = "MemTotal: 536870912 kB\nMemAvailable: {free} kB\nHugePages_Total: {huge}\nHugePages_Free: {huge}\n"
NOT_READY = (
    "Name:   n7\nConditions:\n  Ready   Unknown   Mon, 30 Nov 2026   NodeStatusUnknown   Kubelet stopped\n"
)
NO_AMX = (
    "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\nmodel name : Xeon\nflags : avx2 avx512_bf16\n"
)
LOST = "Unable to determine the device handle: GPU is lost. Reboot\n"
NO_MEMORY = {"/sys/devices/system/node/node1/meminfo": "Node 1 MemTotal: 0 kB\n"}
DESCRIBE = "kubectl describe nodes --request-timeout=8s"
# Causes that no recording has: hosts made by hand.
MADE = [
    ("memory.low", "epyc-vm", {"files": {"/proc/meminfo": MEMINFO.format(free=2_000_000, huge=0)}}),
    (
        "memory.huge_pages",
        "xeon-spr-amx",
        {
            "files": {
                "/proc/meminfo": MEMINFO.format(free=90_000_000, huge=153600) + "Hugepagesize: 2048 kB\n"
            }
        },
    ),
    ("memory.overcommit", "epyc-vm", {"files": {"/proc/sys/vm/overcommit_memory": "2\n"}}),
    ("numa.empty", "xeon-spr-amx", {"files": NO_MEMORY}),
    ("limits.nofile", "epyc-vm", {"limits": {"nofile": [1024, 1024]}}),
    ("disk.read_only", "epyc-vm", {"disks": disk(options="ro,relatime")}),
    ("disk.volatile", "epyc-vm", {"disks": disk(type="tmpfs")}),
    ("disk.volatile", "container-limits", {"disks": disk(type="overlay")}),
    ("disk.no_lock", "epyc-vm", {"disks": disk(type="nfs4", options="rw,vers=4.1,local_lock=all")}),
    ("python.old", "epyc-vm", {"python": {"version": "3.10.12"}}),
    ("cpu.amx_firmware", "xeon-spr-amx", {"files": {"/proc/cpuinfo": NO_AMX}}),
    ("packages.preload", "epyc-vm", {"missing_preloads": ["/usr/lib/libtcmalloc.so"]}),
    (
        "packages.cuda_on_amd",
        "mi300x",
        {"packages": {"torch": "2.7.0+cu128"}, "torch": {"cuda": "12.8", "hip": None}},
    ),
    ("packages", "epyc-vm", {"packages": {"openvino": None}}),
    ("nvidia.visible", "h100", {"env": {"CUDA_VISIBLE_DEVICES": "0,8"}}),
    ("nvidia.container_runtime", "container-limits", {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}),
    (
        "nvidia.no_driver",
        "epyc-vm",
        {
            "pci": [
                {"slot": "0000:01:00.0", "vendor": "10de", "device": "2684", "class": "0300", "driver": ""}
            ]
        },
    ),
    (
        "gaudi.stock_torch",
        "gaudi2",
        {
            "packages": {"habana-torch-plugin": None, "torch": "2.4.0+cu121", "numpy": "1.26.4"},
            "torch": {"cuda": "12.1"},
        },
    ),
    ("kubernetes.not_ready", "epyc-vm", {"commands": {DESCRIBE: {"rc": 0, "text": NOT_READY}}}),
    ("nvidia.fallen", "h100", {"commands": {"nvidia-smi": {"rc": 15, "text": LOST}}}),
]


@pytest.mark.parametrize(("cause", "on", "overlay"), MADE, ids=[f"{cause}-{on}" for cause, on, _ in MADE])
def test_a_cause_without_a_report_is_found_on_a_host_made_by_hand(cause, on, overlay):
    assert wrong(examine(laid_over(HEALTHY[on]["snapshot"], overlay))) == [cause]


def test_other_clashes():
    xeon, epyc = (HEALTHY[name]["snapshot"] for name in ("xeon-spr-amx", "epyc-vm"))
    assert {"clash.isa", "clash.package"} <= set(wrong(between({"a": xeon, "b": epyc})))
    busy = laid_over(epyc, {"listening": [22, 6379]})
    assert wrong(between({"a": epyc, "b": busy})) == ["clash.port"]


def test_of_versions_the_newest_is_named_by_its_numbers():
    host = HEALTHY["epyc-vm"]["snapshot"]
    pairs = [("3.9.2", "2.9.0"), ("3.12.1", "2.60.0")]
    rows = [laid_over(host, {"python": {"version": p}, "packages": {"ray": r, "torch": r}}) for p, r in pairs]
    fixes = {f.name: f.fix for f in between({"a": rows[0], "b": rows[1]})}
    assert "uv python install 3.12.1," in fixes["clash.python"]
    assert "ray==2.60.0" in fixes["clash.ray"] and "torch==2.60.0" in fixes["clash.package"]


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.mark.parametrize(("limit", "used"), [V2, V1])
@pytest.mark.parametrize(
    ("files", "above", "wanted"),
    [(30, 0, []), (0, 0, ["memory.low"]), (30, 31, ["memory.low"])],
    ids=["files that were read are free", "used", "used by others of the cgroup above"],
)
def test_what_a_container_may_still_use(limit, used, files, above, wanted):
    def cgroup(folder, limit_gb, used_gb, files_gb):
        stat = f"inactive_file {files_gb}000000000\n"
        stat = f"inactive_file 0\ntotal_{stat}" if limit == V1[0] else stat
        rows = {limit: f"{limit_gb}000000000\n", used: f"{used_gb}000000000\n", "memory.stat": stat}
        return {f"/sys/fs/cgroup/{folder}/{name}": text for name, text in rows.items()}

    rows = cgroup("pod/one", 32, 31, files) | (cgroup("pod", 34, above, 0) if above else {})
    meminfo = {"/proc/meminfo": MEMINFO.format(free=90_000_000, huge=0)}
    assert wrong(examine(laid_over(HEALTHY["epyc-vm"]["snapshot"], {"files": rows | meminfo}))) == wanted


def test_there_are_enough_and_each_names_the_report_whose_words_it_holds():
    assert len(BROKEN) >= 40 and len(HEALTHY) >= 8
    for name, case in (BROKEN | TOGETHER).items():
        assert case["source"].startswith("https://") and len(case["quote"]) > 10, name
    for name, case in BROKEN.items():
        if case["verbatim"]:
            text = json.dumps(case["overlay"], ensure_ascii=False).replace("\\n", " ").replace("\\t", " ")
            assert " ".join(case["quote"].split()) in " ".join(text.replace('\\"', '"').split()), name
    assert sum(case["verbatim"] for case in BROKEN.values()) >= 20


def test_every_finding_says_symptom_cause_and_what_mends_it():
    for name, case in BROKEN.items():
        for finding in examine(broken_host(case)):
            if finding.level != "ok":
                assert finding.symptom and finding.cause and finding.fix, name
                assert finding.certainty in ("sure", "likely", "possible"), name
                assert not {"{", "}"} & set(finding.symptom + finding.cause), name


@given(st.sampled_from(sorted(BROKEN)), st.data())
def test_a_snapshot_with_holes_is_judged_all_the_same(name, data):
    """Missing tools, files that cannot be read, outputs cut short: findings or none, never an error."""
    facts = copy.deepcopy(broken_host(BROKEN[name]))
    for key in data.draw(st.lists(st.sampled_from(sorted(set(facts) - {"schema"})), max_size=4)):
        facts.pop(key, None)
    for part in ("files", "commands"):
        for key in data.draw(st.lists(st.sampled_from(sorted(facts.get(part, {"-": 0}))), max_size=3)):
            held = facts.get(part, {}).get(key)
            if isinstance(held, str):
                facts[part][key] = held[: data.draw(st.integers(0, len(held)))]
            elif held:
                held["text"] = held["text"][: data.draw(st.integers(0, len(held["text"])))]
    assert all(finding.symptom for finding in examine(facts))


@pytest.mark.parametrize("facts", [{}, {"schema": "steelyard.snapshot/2"}, [], None])
def test_what_is_no_snapshot_is_refused(facts):
    with pytest.raises(WrongUse) as caught:
        examine(facts)
    assert caught.value.code == "doctor.snapshot"


# ------------------------------------------------------------------ this host


def test_this_host_is_looked_at_and_nothing_is_bad(tmp_path):
    found = doctor.findings(tmp_path)
    assert worst(f for f in found if not f.name.startswith(("disk.", "cgroup.", "memory."))) != "bad", found
    assert {"cpu", "memory"} <= {f.name.partition(".")[0] for f in found}


def test_a_package_that_reports_is_named_with_its_removal(tmp_path, monkeypatch):
    metadata = tmp_path / "openvino_telemetry-1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: openvino-telemetry\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (finding,) = (f for f in doctor.findings(tmp_path) if f.name == "telemetry")
    assert finding.level == "warn" and "pip uninstall openvino-telemetry" in finding.fix


def test_the_probe_stands_alone_and_tells_no_secret(tmp_path):
    source = PROBE.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert not any(
        word in source for word in ("getaddrinfo", "gethostby", "connect(", "urllib", "import http")
    )
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat {tmp_path}/bin/said\n")
    tool.chmod(0o755)
    (tmp_path / "bin/said").write_text(
        "HTTP Proxy: anna:hunter2@proxy:3128\nSee git+https://anna:hunt/er2@hunter2@forge/x \n"
        '{"splunk-token": "hunter2", "a": "http://anna:\\"hunter2@b", "image": "forge/x:1@sha256:ab"}\n'
        "--password hunter2 --api-key=hunter2 'passwd: hunter2'\n"
        "Authorization: Bearer hunter2\nSecrets:\nnext\n"
    )
    package = tmp_path / "site/own-1.dist-info/METADATA"
    package.parent.mkdir(parents=True)
    package.write_text(
        "Name: own\nVersion: 1\nRequires-Dist: torch @ https://anna:hunter2@forge/torch.whl\n"
        "Requires-Dist: tokenizers==0.22.1\n"
    )
    environment = {
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "http_proxy": "http://anna:hunter2@proxy.example.com:3128",
        "https_proxy": "anna:hunter2@proxy:3128",
        "ALL_PROXY": "http://anna:p/a hunt@hunter2@proxy",
        "HF_TOKEN": "hf_hunter2",
        "VLLM_API_KEY": "hunter2",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"env_vars": {"HF_TOKEN": "hunter2"}}}',
        "RAY_RUNTIME_ENV_HOOK": "hunter2",
        "RAY_OTHER": " {'HF_TOKEN': 'hunter2'}",
        "RAY_REDIS_ADDRESS": "redis://:hunt er2@hunter2@redis:6379",
        "OMP_PLACES": "{0:4},{4:4}",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    before = sorted(tmp_path.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-I", "-", str(tmp_path)],
        input=f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n".encode() + own_probe(),
        capture_output=True, env=environment, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    facts = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr, facts["schema"]) == (0, b"", "steelyard.snapshot/1")
    assert not re.search(rb"hunter2|hunt.?er2|anna", ran.stdout) and sorted(tmp_path.rglob("*")) == before
    assert facts["env"] == {
        "ALL_PROXY": "http://proxy",
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_PLACES": "{0:4},{4:4}",
        "RAY_REDIS_ADDRESS": "redis://redis:6379",
        "http_proxy": "http://proxy.example.com:3128",
        "https_proxy": "proxy:3128",
    }
    said = facts["commands"]["nvidia-smi"]["text"]
    assert "HTTP Proxy: proxy:3128\n" in said and '"image": "forge/x:1@sha256:ab"' in said
    assert said.endswith("Secrets:\nnext\n")
    assert facts["requires"]["own"] == ["torch @ https://forge/torch.whl", "tokenizers==0.22.1"]
    assert facts["disks"][0]["path"] == str(tmp_path.resolve())
    examine(facts)


def test_of_the_settings_of_sgx_only_what_tells_of_the_service_is_taken(tmp_path, monkeypatch):
    conf = tmp_path / "qcnl.conf"
    conf.write_text(
        '{"pccs_url": "https://anna:hunter2@pccs:8081/sgx/", "use_secure_cert": false,\n'
        '"custom_request_options": {"get_cert": {"headers": {"Ocp-Apim-Subscription-Key": "hunter2"}}}}'
    )
    monkeypatch.setattr(probe, "QCNL", str(conf))
    text = probe.files()[str(conf)]
    assert text.splitlines() == ['pccs_url": "https://pccs:8081/sgx/"', 'use_secure_cert": false']


def own_probe() -> bytes:
    """Without the line that has to be its first."""
    return PROBE.read_bytes().replace(b"from __future__ import annotations\n", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="a process as Linux has it")
def test_a_tool_that_cannot_be_killed_and_a_disk_that_does_not_answer_are_left_and_told(
    tmp_path, monkeypatch
):
    """As one that waits in the kernel for a broken driver: the signal is sent, and nothing ends."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 30\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("steelyard.doctor.probe.TOOL_S", 0.5)
    monkeypatch.setattr("steelyard.doctor.probe.KILLED_S", 0.1, raising=False)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    disk = probe.disk
    release = threading.Event()
    monkeypatch.setattr(probe, "disk", lambda *row: release.wait(5) if row[0] == "work" else disk(*row))
    facts = snapshot(str(tmp_path))
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGKILL)  # it lives: nobody waited for its end
    release.set()
    found = {finding.name: finding for finding in examine(facts) if finding.name.endswith(".hangs")}
    assert "nvidia-smi did not end within 0.5 s, and could not be killed" in found["tool.hangs"].symptom
    assert found["tool.hangs"].level == "bad" and str(tmp_path) in found["disk.hangs"].symptom


def test_a_tool_that_hangs_or_is_missing_holds_nothing_up(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 30\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("steelyard.doctor.probe.TOOL_S", 0.2)
    told = snapshot(str(tmp_path))["commands"]
    assert told["nvidia-smi"] == {"rc": -1, "text": "did not end within 0.2 s"} and "hl-smi" not in told


# ------------------------------------------------------------------ mending


def test_a_safe_setting_is_mended_once(tmp_path):
    governors = [tmp_path / f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor" for n in range(3)]
    for path in governors:
        path.parent.mkdir(parents=True)
        path.write_text("powersave\n")
    found = examine(broken_host(BROKEN["governor-powersave"]))
    (first,) = mend(found, tmp_path)
    assert (first.name, first.state) == ("cpu.governor", "done") and "performance" in first.did
    assert [path.read_text() for path in governors] == ["performance\n"] * 3
    written = [path.stat().st_mtime_ns for path in governors]
    mend(found, tmp_path)
    assert [path.stat().st_mtime_ns for path in governors] == written


def test_what_is_not_safe_is_left_alone_and_a_failure_says_why(tmp_path, monkeypatch):
    for name in (
        "nvml-mismatch",
        "disk-full",
        "torchvision-pair",
        "gaudi-release-mismatch",
        "docker-permission",
    ):
        assert mend(examine(broken_host(BROKEN[name])), tmp_path) == []
    (failed,) = mend(examine(broken_host(BROKEN["numa-balancing"])), tmp_path)
    assert failed.state == "failed" and "numa_balancing" in failed.did
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (refused,) = mend(examine(broken_host(BROKEN["numa-balancing"])))
    assert refused.state == "needs root"


def test_each_way_to_mend_changes_what_a_reboot_or_pip_undoes():
    ways = [f.mend for case in BROKEN.values() for f in examine(broken_host(case)) if f.mend]
    assert ways
    for way in ways:
        path = way.write[0] if way.write else ""
        assert path.startswith(("/proc/sys/", "/sys/")) or way.run[0] in ("pip", "nvidia-modprobe")


# ------------------------------------------------------------------ versions and the table


def test_each_row_of_the_table_has_a_page_and_a_bound():
    assert len(pairs()) >= 30
    for pair in pairs():
        assert pair.source.startswith("https://") and (pair.at_least or pair.below), pair
        assert pair.subject and pair.needs and numbers(pair.since), pair


@given(
    st.lists(st.integers(0, 999), min_size=1, max_size=4),
    st.lists(st.integers(0, 999), min_size=1, max_size=4),
)
def test_versions_are_ordered_by_their_numbers(one, other):
    a, b = ".".join(map(str, one)), ".".join(map(str, other))
    assert compared(a, b) == -compared(b, a) and compared(a, a + ".0") == 0
    assert within(a, a, "") and not within(a, "", a)
    assert satisfies(a, f"=={a}") and satisfies(a, f">={b}") == (compared(a, b) >= 0)


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.1.0+cu121", "==2.2.*", False),
        ("2.2.1", "==2.2.*", True),
        ("2.3.0", "~=2.2", True),
        ("3.0", "~=2.2", False),
        ("2.2.6", "<2.0", False),
        ("2.6.0", "!=2.6.0", False),
        ("4.57.1", ">=4.45,!=4.50.*,<5", True),
        ("1.0", "whatever", True),
    ],
)
def test_specifiers(version, wanted, holds):
    assert satisfies(version, wanted) is holds


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("torch==2.3.0", ("torch", "==2.3.0")),
        ("numpy<2.0.0,>=1.26 ; python_version >= '3.9'", ("numpy", "<2.0.0,>=1.26")),
        ("torch (>=2.0)", ("torch", ">=2.0")),
        ("ray[cgraph]>=2.43", ("ray", ">=2.43")),
        ("numpy", None),
        ("torch==2.1 ; sys_platform == 'darwin'", None),
    ],
)
def test_requirements(line, read):
    assert requirement(line) == read
