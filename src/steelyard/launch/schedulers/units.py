"""A training as a unit of systemd: started again after a fault, ended for good after five, or by its limit.

A service has its units already (services.py). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..systemd import escaped, quoted
from .job import Job, Scheduled

UNIT = """\
# install:  cp {file} /etc/systemd/system/ && systemctl daemon-reload && systemctl start {file}
# Paths and user are those of the export: change them with the folder.
[Unit]
Description={model} trained on {device}, as planned
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=1d
StartLimitBurst=5

[Service]
Type=exec
User={user}
WorkingDirectory={folder}
{env}ExecStart={limit}/bin/sh {script}
Restart=on-failure
RestartSec=30
{ended}TimeoutStopSec=120
KillMode=mixed
OOMScoreAdjust=500
LimitNOFILE=65536
LimitMEMLOCK=infinity
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={writes}
PrivateTmp=yes
"""
HOST = "host.env"
TOKEN = f"{HOST} (mode 600) may hold HF_TOKEN=..., of a model that asks for one"
TOLD = "# {file} says, a line each: {what}\n# {token}\nEnvironmentFile={path}\n"
CACHES = {"XDG_CACHE_HOME": "cache", "HF_HOME": "cache/huggingface", "TRITON_CACHE_DIR": "cache/triton"}
# RuntimeMaxSec would be a failure, after which systemd starts it again. timeout exits with 124, or with 137
# where it had to kill; what another has killed is a signal to systemd, no exit code.
LIMIT, ENDED = "/usr/bin/timeout --foreground --kill-after=90 {limit} ", "RestartPreventExitStatus=124 137\n"


def training_unit(job: Job) -> Scheduled | None:
    """One unit, the same on every host; None of a service."""
    if job.kind != "train":
        return None
    wanted, file = _wanted(job), f"steelyard-{job.place}.service"
    text = UNIT.format(
        file=file, model=escaped(job.model), device=escaped(job.device), user=job.user, env=_env(job, wanted),
        folder=escaped(job.folder), script=quoted(f"{job.folder}/{job.script}", command=True),
        writes=quoted(job.folder), limit=LIMIT.format(limit=job.limit_s) if job.limit_s else "",
        ended=ENDED if job.limit_s else "",
    )  # fmt: skip
    needs = [f"{HOST} beside it{' on each host' * (job.hosts > 1)}: {_listed(wanted)}"] if wanted else []
    if job.hosts > 1:
        needs.append("this folder on one disk of all hosts: a run goes on from its checkpoints")
    return Scheduled(scheduler="systemd", files={file: text}, needs=tuple(needs))


def _wanted(job: Job) -> dict[str, str]:
    """{variable: what it is} of what the script must be told on a host."""
    if job.hosts == 1:
        return dict(job.variables)
    return {"NODE_RANK": f"0 to {job.hosts - 1}", "MASTER_ADDR": "the address of host 0", **job.variables}


def _listed(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={what}" for name, what in wanted.items())


def _env(job: Job, wanted: Mapping[str, str]) -> str:
    """Caches below the folder, the only place that it may write; and what its host must say."""
    caches = [quoted(f"{name}={job.folder}/{place}") for name, place in CACHES.items()]
    lines = "".join(f"Environment={word}\n" for word in caches)
    path = escaped(f"{job.folder}/{HOST}")
    if not wanted:
        return f"{lines}# {TOKEN}\nEnvironmentFile=-{path}\n"
    return lines + TOLD.format(file=HOST, what=_listed(wanted), token=TOKEN, path=path)
