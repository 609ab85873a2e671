"""A training as a unit of systemd: started again after a fault, ended for good after five. Pure.

A service has its units already (services.py).
"""

from __future__ import annotations

from ..systemd import escaped, quoted
from .job import Job, Scheduled

FILE = "steelyard-train.service"
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
{hosts}ExecStart=/bin/sh {script}
Restart=on-failure
RestartSec=30
{limit}TimeoutStopSec=120
KillMode=mixed
OOMScoreAdjust=500
LimitNOFILE=65536
LimitMEMLOCK=infinity
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={writes}
PrivateTmp=yes
"""
OF_HOSTS = "# NODE_RANK=0 to {last}, MASTER_ADDR=the address of host 0\nEnvironmentFile={file}\n"


def training_unit(job: Job) -> Scheduled | None:
    """One unit, the same on every host; None of a service."""
    if job.kind != "train":
        return None
    several = job.hosts > 1
    hosts = OF_HOSTS.format(last=job.hosts - 1, file=escaped(f"{job.folder}/host.env")) if several else ""
    text = UNIT.format(
        file=FILE, model=escaped(job.model), device=escaped(job.device), user=job.user, hosts=hosts,
        folder=escaped(job.folder), script=quoted(f"{job.folder}/{job.script}", command=True),
        writes=quoted(job.folder), limit=f"RuntimeMaxSec={job.limit_s}\n" if job.limit_s else "",
    )  # fmt: skip
    needs = ("host.env beside it on each host: NODE_RANK and MASTER_ADDR",) if several else ()
    return Scheduled(scheduler="systemd", files={FILE: text}, needs=needs)
