"""What a host shows of itself, as plain JSON: files, outputs of tools, versions, limits; nothing is judged.

Stands alone: this one file is piped to `python3 -` of other hosts (Python 3.7 and later, standard
library), so it imports nothing of ours. It reads, and starts tools that only report; it changes nothing and
installs nothing. Of the environment it takes the names below alone, and of all it leaves out what looks like
a password or token. A tool, or a disk, that does not answer is left: nothing here waits for it for ever.

Not here: what is wrong with the host (rules).
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import platform
import queue
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

SCHEMA = "steelyard.snapshot/1"
TOOL_S = 10  # a tool that hangs on a broken driver is left after this
KILLED_S = 1  # what a signal ends is gone by then; what waits in the kernel may never be
AT_ONCE = 8  # tools
FILE_BYTES = 65536

FILES = (
    "/etc/docker/daemon.json",
    "/etc/hosts",
    "/etc/os-release",
    "/opt/rocm/.info/version",
    "/proc/driver/nvidia/version",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/mounts",
    "/proc/self/cgroup",
    "/proc/self/status",
    "/proc/sys/kernel/numa_balancing",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/overcommit_memory",
    "/proc/version",
    "/sys/class/dmi/id/bios_version",
    "/sys/class/dmi/id/product_name",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/online",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/amdgpu/version",
    "/sys/module/i915/version",
    "/sys/module/nvidia/version",
)
GLOBS = (
    "/sys/class/accel/accel*/device/driver_ver",
    "/sys/class/habanalabs/hl*/driver_ver",
    "/sys/devices/system/node/node*/cpulist",
    "/sys/devices/system/node/node*/meminfo",
)
CGROUP_FILES = (
    "cpu.max",
    "cpu.stat",
    "memory.current",
    "memory.max",
    "memory.stat",
    "memory.events",
    "pids.max",
    "pids.current",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
)
DEVICES = (
    "/dev/accel/*",
    "/dev/dri/*",
    "/dev/dxg",
    "/dev/hl*",
    "/dev/infiniband/uverbs*",
    "/dev/kfd",
    "/dev/nvidia*",
    "/dev/sev-guest",
    "/dev/sgx*",
    "/dev/tdx_guest",
    "/var/run/docker.sock",
)
GPU_COLUMNS = "index,name,driver_version,compute_cap,memory.total,mig.mode.current"
COMMANDS = (
    ("nvidia-smi",),
    ("nvidia-smi", "--query-gpu=" + GPU_COLUMNS, "--format=csv,noheader"),
    ("nvidia-smi", "-q", "-d", "ROW_REMAPPER"),
    ("systemctl", "status", "nvidia-fabricmanager", "--no-pager", "-l"),
    ("hl-smi",),
    ("rdma", "link"),
    ("rocm-smi",),
    ("rocminfo",),
    ("xpu-smi", "discovery"),
    ("sycl-ls",),
    ("dmesg",),
    ("timedatectl", "show"),
    ("chronyc", "tracking"),
    ("docker", "info"),
    ("nvidia-ctk", "--version"),
    ("mokutil", "--sb-state"),
    ("dkms", "status"),
    ("ldconfig", "-p"),
)
JOURNAL = ("journalctl", "-k", "-b", "--no-pager", "-q")
KUBERNETES = (
    ("kubectl", "describe", "nodes", "--request-timeout=8s"),
    ("kubectl", "get", "events", "-A", "--field-selector=type=Warning", "--request-timeout=8s"),
)
# Of a long output only lines that say something of these.
OF_DEVICES = (
    r"NVRM|Xid|nvidia|nouveau|habanalabs|amdgpu|kfd|i915|\bxe\b|oom|Out of memory|I/O error"
    r"|\bsgx\b|SGX|tdx|Lockdown|Key was rejected"
)
KEPT_LINES = {
    "dmesg": OF_DEVICES,
    " ".join(JOURNAL): OF_DEVICES,
    "ldconfig -p": r"lib(cuda|nvidia-ml|ze_loader|ze_intel_gpu|hsa-runtime64)\.|"
    r"lib(gomp|iomp5|tcmalloc|jemalloc)\b",
}
ENVIRONMENT = (
    r"^(CUDA|NVIDIA|NCCL|GLOO|HSA|HIP|ROCR|ROCM|HABANA|HCCL|ZE|SYCL|ONEAPI|UR|OMP|KMP|MKL|OPENBLAS|RAY"
    r"|VLLM|PYTORCH)_[A-Z0-9_]+$"
    r"|^(LD_LIBRARY_PATH|LD_PRELOAD|TMPDIR|CONDA_PREFIX|VIRTUAL_ENV|KUBERNETES_SERVICE_HOST|CUDACXX)$"
    r"|^(https?|all|no)_proxy$"
)
# The last two hold the environment of other processes.
SECRET_NAME = r"TOKEN|PASSW|PASSPHRASE|SECRET|KEY|CREDENTIAL|JSON|RUNTIME_ENV"
FIELD = r"(?:token(?!i)|passw(?:or)?d|passphrase|secret|api[_-]?key|authorization)[\w.-]*"
VALUE = r"(\"[^\"]*\"?|'[^']*'?|(?:(?:Bearer|Basic)[ \t]+)?[^\s,;&]+)"
SECRET_FIELD = "(" + FIELD + r"[\"']?[ \t]*[=:][ \t]*|--[\w-]*" + FIELD + r"[ \t]+)" + VALUE
# Of the settings of SGX's quotes; the file may hold headers of requests too.
QCNL, QCNL_KEPT = (
    "/etc/sgx_default_qcnl.conf",
    r"\w*(?:url|secure_cert|service|retry)\w*\"?\s*[:=]\s*[^\s,}]+",
)
# What others pin, and break on: requirements of these are told, whoever asks for them.
PINNED = r"^(torch|torchvision|torchaudio|triton|numpy|transformers|tokenizers|openvino|ray)\b(?!-)"


def snapshot(folder=".", kubernetes=False, given=None):
    """Everything below as one dictionary that JSON can hold. `folder`: where work is to be written;
    `given`: the environment to look at, that of this process where None."""
    environment = dict(os.environ if given is None else given)
    commands = COMMANDS + (KUBERNETES if kubernetes else ())
    tools = begun(commands)
    facts = {
        "schema": SCHEMA,
        "host": socket.gethostname(),
        "python": python_facts(),
        "system": {
            "os": platform.system(),
            "machine": platform.machine(),
            "kernel": platform.release(),
            "glibc": platform.libc_ver()[1],
        },
        "user": user_facts(),
        "processors": os.cpu_count() or 1,
        "affinity": affinity(),
        "files": files(),
        "devices": devices(),
        "pci": pci(),
        "interfaces": interfaces(),
        "listening": listening(),
        "resolves": resolves(),
        "disks": disks(folder),
        "limits": limits(),
        "env": chosen(environment),
        "missing_preloads": missing_preloads(environment),
        "packages": packages(),
        "requires": requires(),
        "torch": torch_facts(),
        "amx_permission": amx_permission(),
    }
    told: dict = tools()
    # dmesg is root's alone on many systems; the journal is open to the group adm.
    if told.get("dmesg", {"rc": 0})["rc"] != 0:
        journal = begun((JOURNAL,))().get(" ".join(JOURNAL), {"rc": 1})
        told["dmesg"] = journal if journal["rc"] == 0 else told["dmesg"]
    facts["commands"] = told
    facts["time_s"] = time.time()  # last, so that whoever receives it can compare clocks
    return facts


# ------------------------------------------------------------------ tools


NOT_ENDED = "did not end within {} s"


class Left(Exception):
    """What became of a tool that hangs."""


def begun(commands):
    """Start tools, so many at once. A call of what is returned waits: {words: {"rc", "text"}} of those that
    are here. Their threads are daemons: one that hangs while it starts a tool is left behind."""
    waiting: queue.Queue = queue.Queue()
    ended: queue.Queue = queue.Queue()
    started: dict = {}
    until = time.monotonic() + (len(commands) + AT_ONCE) / AT_ONCE * (TOOL_S + KILLED_S)
    for words in commands:
        waiting.put(words)

    def work():
        while True:
            try:
                words = waiting.get_nowait()
            except queue.Empty:
                return
            ended.put(run(words, started))

    def told():
        for _ in commands:
            try:
                started.update(dict(filter(None, [ended.get(timeout=max(0.0, until - time.monotonic()))])))
            except queue.Empty:
                break
        return dict(started)

    for _ in range(AT_ONCE):
        threading.Thread(target=work, daemon=True).start()
    return told


def run(words, started):
    """(its words, {"rc", "text"}), or None where the tool is not here. rc -1: it did not end in time.
    `started` has it from the start."""
    path = shutil.which(
        words[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/opt/rocm/bin:/usr/lib/wsl/lib"
    )
    if path is None:
        return None
    name = " ".join(words)
    started[name] = {"rc": -1, "text": NOT_ENDED.format(TOOL_S)}
    environment = dict(os.environ, LC_ALL="C", PAGER="cat")
    try:
        with scratch() as output:
            code = ended_with((path, *words[1:]), output, environment)
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
    except Left as error:
        return name, {"rc": -1, "text": str(error)}
    except OSError as error:
        return name, {"rc": 126, "text": str(error)}
    if name in KEPT_LINES and code == 0:
        text = kept(text, KEPT_LINES[name])
    return name, {"rc": code, "text": clean(text)[-FILE_BYTES:]}


def scratch():
    """A file without a name, in memory where the system can: a disk may be full."""
    try:
        return os.fdopen(os.memfd_create("tool"), "w+b")  # Python 3.8, Linux
    except (AttributeError, OSError):
        return tempfile.TemporaryFile()


def ended_with(command, output, environment):
    """A tool's exit code. Raises Left where it does not end in time, killed or not: a process that waits in
    the kernel for a driver dies only once that answers, and holds a pipe open as long."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
    )
    try:
        return child.wait(TOOL_S)
    except subprocess.TimeoutExpired:
        child.kill()
    try:
        child.wait(KILLED_S)
    except subprocess.TimeoutExpired:
        raise Left(NOT_ENDED.format(TOOL_S) + ", and could not be killed") from None
    raise Left(NOT_ENDED.format(TOOL_S))


def within(limit_s, do, *arguments):
    """What a function gives, or None where it does not end in time."""
    given: list = []
    thread = threading.Thread(target=lambda: given.append(do(*arguments)), daemon=True)
    thread.start()
    thread.join(limit_s)
    return given[0] if given else None


def clean(text):
    """A text without users and passwords of addresses, and without the values of fields that are called a
    token, password or secret."""
    return re.sub(SECRET_FIELD, r"\1(left out)", without_users(text), flags=re.I)


def without_users(text):
    """What stands before a host's name goes: the last @ of a word ends it, as lenient parsers have it."""
    text = re.sub(r"://(?:\\.|[^\s\"<>\\])*@", "://", text)
    return re.sub(r"(?<![^\s\"'=,;(\[])[^\s\"'=,;(\[:/@]+:(?:\\.|[^\s\"\\])*@", "", text)


# ------------------------------------------------------------------ files


def read(path):
    """A file's text, or None."""
    try:
        with open(path, "rb") as file:
            return clean(file.read(16 * FILE_BYTES).decode("utf-8", "replace"))[:FILE_BYTES]
    except OSError:
        return None


def files():
    """Each file that is here, by its path; of /proc/cpuinfo the first processor."""
    paths = [QCNL, *FILES] + [path for pattern in GLOBS for path in sorted(glob.glob(pattern))]
    found = {path: read(path) for path in paths + cgroup_paths()}
    found["/proc/cpuinfo"] = first_processor(read("/proc/cpuinfo"))
    found["/proc/self/status"] = kept(found["/proc/self/status"], r"^(Cpus|Mems)_allowed_list|^Seccomp")
    if found[QCNL] is not None:
        found[QCNL] = "\n".join(re.findall(QCNL_KEPT, found[QCNL], re.I)) or "(left out)"
    for path in found:
        if path.endswith("/memory.stat"):
            found[path] = kept(found[path], r"^(total_)?inactive_file ")
    return {path: text for path, text in found.items() if text is not None}


def kept(text, pattern):
    """The lines of a text in which a pattern is found."""
    return text and "\n".join(line for line in text.splitlines() if re.search(pattern, line))


def first_processor(text):
    return text if text is None else text.split("\n\n")[0] + "\n"


def cgroup_paths():
    """Limits of this process's cgroup and of those above it, versions 1 and 2."""
    paths: list = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        root = os.path.join("/sys/fs/cgroup", controllers)
        folder = os.path.normpath(root + "/" + place.strip("/"))
        while folder.startswith(root.rstrip("/")):
            paths += [os.path.join(folder, name) for name in CGROUP_FILES]
            folder = os.path.dirname(folder)
    return sorted(set(paths))


def devices():
    """Device files: who may use them, and whether this user can."""
    found: dict = {}
    for pattern in DEVICES:
        for path in sorted(glob.glob(pattern)):
            try:
                status = os.stat(path)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                continue
            found[path] = {
                "mode": stat.filemode(status.st_mode),
                "group": group_name(status.st_gid),
                "usable": os.access(path, os.R_OK | os.W_OK),
            }
    return found


def pci():
    """Display, 3D, accelerator and bridge devices of NVIDIA, AMD, Intel and Habana, from sysfs."""
    found: list = []
    for folder in sorted(glob.glob("/sys/bus/pci/devices/*")):
        vendor, device, kind = (
            (read(folder + "/" + name) or "").strip() for name in ("vendor", "device", "class")
        )
        known = vendor in ("0x10de", "0x1002", "0x8086", "0x1da3")
        if not known or kind[2:4] not in ("03", "06", "12") or kind[2:6] in ("0600", "0601", "0604"):
            continue
        driver = (
            os.path.basename(os.path.realpath(folder + "/driver"))
            if os.path.exists(folder + "/driver")
            else ""
        )
        found.append(
            {"slot": os.path.basename(folder), "vendor": vendor[2:], "device": device[2:], "class": kind[2:6],
             "driver": driver}
        )  # fmt: skip
    return found


# ------------------------------------------------------------------ the process and its user


def python_facts():
    import sysconfig

    marker = os.path.join(sysconfig.get_path("stdlib") or "", "EXTERNALLY-MANAGED")
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "virtual": sys.prefix != sys.base_prefix,
        "externally_managed": sys.prefix == sys.base_prefix and os.path.exists(marker),
    }


def user_facts():
    if not hasattr(os, "getuid"):
        return {"uid": -1, "groups": []}
    return {"uid": os.getuid(), "groups": sorted({group_name(gid) for gid in os.getgroups()})}


def group_name(gid):
    try:
        import grp

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):
        return str(gid)


def affinity():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits():
    """Soft and hard limits; -1 where there is none."""
    try:
        import resource
    except ImportError:
        return {}
    names = {
        "nofile": "RLIMIT_NOFILE",
        "memlock": "RLIMIT_MEMLOCK",
        "nproc": "RLIMIT_NPROC",
        "as": "RLIMIT_AS",
    }
    known = {name: getattr(resource, constant, None) for name, constant in names.items()}
    return {name: list(resource.getrlimit(limit)) for name, limit in known.items() if limit is not None}


def chosen(environment):
    """The variables of ENVIRONMENT, without those that hold secrets, by their name or as JSON."""
    return {
        name: clean(only_host(value, "proxy" in name.lower()))
        for name, value in sorted(environment.items())
        if re.search(ENVIRONMENT, name if name.isupper() and "PROXY" not in name else name.lower())
        and not re.search(SECRET_NAME, name.upper())
        and not re.match(r"\s*[{\[].*[\"']", value, re.S)
    }


def only_host(value, is_proxy):
    """All that stands before the last @ goes; most programs take a proxy without a scheme too."""
    return re.sub(r"^(\w+://)?.*@" if is_proxy else r"(://).*@", r"\1", value, flags=re.S)


def missing_preloads(environment):
    words = re.split(r"[:\s]+", environment.get("LD_PRELOAD", ""))
    return [word for word in words if "/" in word and not os.path.exists(word)]


def amx_permission():
    """Whether the kernel lets this process use AMX tiles: "granted", "refused: why", or None elsewhere."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    arch_prctl, request, tile_data = 158, 0x1023, 18  # <asm/prctl.h>, XSTATE component 18
    if library.syscall(arch_prctl, request, tile_data) == 0:
        return "granted"
    number = ctypes.get_errno()
    return "refused: " + errno.errorcode.get(number, str(number))


# ------------------------------------------------------------------ disks and network


def disks(folder):
    """Where work, temporary files and shared memory would be written."""
    uses = (
        ("work", folder),
        ("temporary", os.environ.get("TMPDIR") or "/tmp"),
        ("shared memory", "/dev/shm"),
    )
    mounts = [line.split() for line in (read("/proc/mounts") or "").splitlines()]
    return [row for use, path in uses for row in disk_in_time(use, path, mounts)]


def disk_in_time(use, path, mounts):
    """One row, or none where there is no such folder; a server that is gone may never answer."""
    row = within(TOOL_S, lambda: disk(use, path, mounts) if os.path.isdir(path) else {})
    if row is None:
        return [{"use": use, "path": os.path.abspath(path), "hangs": True}]
    return [row] if row else []


def disk(use, path, mounts):
    real = os.path.realpath(path)
    over = [m for m in mounts if len(m) > 3 and (real + "/").startswith(m[1].rstrip("/") + "/")]
    mount = max(over, key=lambda m: len(m[1]), default=["", "", "", ""])
    facts = {"use": use, "path": real, "mount": mount[1], "type": mount[2], "options": mount[3]}
    try:
        space = os.statvfs(real)
    except (OSError, AttributeError):
        return facts
    facts.update(
        free_bytes=space.f_bavail * space.f_frsize, total_bytes=space.f_blocks * space.f_frsize,
        free_inodes=space.f_favail, total_inodes=space.f_files,
    )  # fmt: skip
    return facts


def interfaces():
    found: dict = {}
    for folder in sorted(glob.glob("/sys/class/net/*")):
        mtu, state = (read(folder + "/" + name) for name in ("mtu", "operstate"))
        if mtu:
            found[os.path.basename(folder)] = {"mtu": int(mtu), "state": (state or "").strip()}
    return found


def listening():
    """TCP ports on which something listens."""
    ports: set = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(path) or "").splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == "0A":
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return sorted(ports)


def resolves():
    """Addresses that /etc/hosts gives this host's own name; no name server is asked."""
    name = socket.gethostname()
    lines = [line.partition("#")[0].split() for line in (read("/etc/hosts") or "").splitlines()]
    return sorted({words[0] for words in lines if name in words[1:]})


# ------------------------------------------------------------------ packages


def distributions():
    try:
        from importlib.metadata import distributions as every
    except ImportError:  # Python 3.7
        return []
    return every()


def normal(name):
    return re.sub(r"[-_.]+", "-", name or "").lower()


def packages():
    found: dict = {}
    for one in distributions():
        found.setdefault(normal(one.metadata["Name"]), one.version)
    found.pop("", None)
    return dict(sorted(found.items()))


def requires():
    """{package: its requirements of PINNED}, extras left out."""
    found: dict = {}
    for one in distributions():
        lines = [
            without_users(line)
            for line in one.requires or ()
            if re.search(PINNED, line) and "extra ==" not in line
        ]
        if lines:
            found.setdefault(normal(one.metadata["Name"]), lines)
    return found


def torch_facts():
    """{"cuda", "hip", "xpu"}: what torch was built for, from its version.py; torch itself is not imported."""
    for folder in sys.path:
        text = read(os.path.join(folder or ".", "torch", "version.py"))
        if text:
            matched = re.findall(r"^(cuda|hip|xpu)\s*(?::[^=]*)?=\s*(?:'([^']*)'|None)", text, re.M)
            return {name: value or None for name, value in matched}
    return {}


if __name__ == "__main__":
    given_words = [word for word in sys.argv[1:] if not word.startswith("--")]
    json.dump(snapshot((given_words or ["."])[0], "--kubernetes" in sys.argv), sys.stdout)
