"""A systemd unit for a service: hardened, started again after a fault, given time to end. Pure but for paths.

No key stands in it, only the path of the file of keys. Not here: what systemd is told (supervisor.py).
"""

from __future__ import annotations

import getpass
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ...launch import LAUNCHED, escaped, quoted
from ..host.settings import ServeSettings

HOMES = ("/home", "/root", "/run/user")
CLOSE_S = 15  # after the drain: stores, engines; then SIGKILL
START_S = 1800  # the first start writes the model in its form; as long as an engine may load
WATCHDOG_S = 60
BAD_START = "2 3"  # wrong use, refused: the next start would end alike
PRIVILEGED = 1024  # ports below want a capability
UNIT = """\
# Made by `steelyard serve --unit`.
#   install:  cp this /etc/systemd/system/{unit}.service && systemctl daemon-reload
#             systemctl enable --now {unit}
#   log:      journalctl -u {unit} -o cat
[Unit]
Description=steelyard serves {name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{user}
Environment=STEELYARD_STATE=%S/{unit} STEELYARD_CACHE=%C/{unit} STEELYARD_SIGNING_KEY=%S/{unit}/signing-key
StateDirectory={unit}
CacheDirectory={unit}
StateDirectoryMode=0700
CacheDirectoryMode=0700
WorkingDirectory=%S/{unit}
UMask=0077

# An end in good order has its time; a fault is started again, a wrong command line is not.
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={bad_start}
TimeoutStartSec={start_s}
TimeoutStopSec={stop_s}
WatchdogSec={watchdog_s}
KillMode=mixed
LimitNOFILE=65536
LimitCORE=0

# No more of the system than it needs. Engines compile code at run time: no MemoryDenyWriteExecute.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
{devices}ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
RemoveIPC=yes
{capabilities}
{writable}
[Install]
WantedBy=multi-user.target
"""


def unit_of(words: Sequence[str], settings: ServeSettings) -> str:
    """`words`: of `steelyard serve`, paths absolute."""
    at_home = [path for path in _paths(words) if path.startswith(HOMES)]
    return UNIT.format(
        name=escaped(settings.name),
        command=" ".join(
            quoted(word, command=True) for word in [sys.executable, "-P", "-m", "steelyard", "serve", *words]
        ),
        user=_user(_unit_name(settings.name), at_home),
        unit=_unit_name(settings.name),
        bad_start=BAD_START,
        start_s=START_S,
        stop_s=math.ceil(settings.drain_s) + CLOSE_S,
        watchdog_s=WATCHDOG_S,
        home="read-only" if at_home else "yes",
        devices="" if settings.engine in LAUNCHED else "PrivateDevices=yes\n",  # it looks for a GPU
        capabilities=_capabilities(settings.port),
        writable=_writable(settings),
    )


def _user(name: str, at_home: list[str]) -> str:
    """One of its own where root makes the unit, else who makes it: somebody must be able to read it all."""
    if os.geteuid() != 0:
        return f"User={getpass.getuser()}"
    if not at_home:
        return f"DynamicUser=yes\nUser={name}"
    return (
        f"# {at_home[0]} lies in root's home: a user of its own could not read it. Move it to /opt or /srv\n"
        f"# and make the unit again for DynamicUser=yes; this root has no capabilities.\nUser=root"
    )


def _paths(words: Sequence[str]) -> list[str]:
    """Of the interpreter and in the command line, links followed: what the service has to read."""
    values = [word.partition("=")[2] if "=/" in word else word for word in words]
    named = [sys.executable, sys.prefix, sys.base_prefix, *(v for v in values if v.startswith("/"))]
    return [os.path.realpath(path) for path in named]


def _capabilities(port: int) -> str:
    if not 0 < port < PRIVILEGED:
        return "CapabilityBoundingSet="
    return "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE"


def _writable(settings: ServeSettings) -> str:
    """Folders outside of its own that it writes: used budgets beside the keys, the log."""
    files = [Path(file) for file in (settings.keys, settings.log_file, settings.key_file) if file]
    folders = dict.fromkeys(str(file.parent) for file in files)
    lines = [f"ReadWritePaths={quoted('-' + folder)}\n" for folder in folders]
    note = (
        "# Its user reads and writes there: keys are read again when they change, budgets are kept beside.\n"
    )
    return (note if lines else "") + "".join(lines)


def _unit_name(name: str) -> str:
    """Of the unit, its user and its folders."""
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:20]
    return "steelyard" if plain in ("", "default") else f"steelyard-{plain}"
