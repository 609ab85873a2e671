"""RayCluster, RayJob and RayService of KubeRay 1.7, in a queue of Kueue 0.17 or later. Pure.

The head does not compute; each host of the plan is a worker that takes all that it needs. A token between all
of Ray's processes (KubeRay makes it), no traffic from outside of the cluster but KubeRay's operator and,
for a service, pods of the same namespace; no right of root, no token of Kubernetes. Images by digest alone.
"""

from __future__ import annotations

import json
import posixpath
from typing import Any

from ..target import documents, weights_need
from .job import Job, Scheduled

API = "ray.io/v1"
QUEUE = "kueue.x-k8s.io/queue-name"
NO_IMAGE = "Kubernetes needs an image: --image REGISTRY/NAME@sha256:..."
DEVICES = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu", "gaudi": "habana.ai/gaudi"}
XE = ("arc-b580",)  # driven by xe, the others by i915: the plugin names them so
HEAD = {"cpu": "2", "memory": "8Gi"}
PLAN, WORK = "/plan", "/work"
ON_RAY = '''\
"""Start run.sh once on every host of the plan, through Ray; the first that fails ends all."""

import json
import os
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

HOSTS, TAKES = {hosts}, json.loads({takes!r})
FOLDER = os.environ.get("PLAN_FOLDER", "{folder}")
MORE = {{name: amount for name, amount in TAKES.items() if name not in ("CPU", "GPU")}}


@ray.remote
def address():
    return ray.util.get_node_ip_address()


@ray.remote(max_retries=0)
def start(rank, head):
    environment = dict(os.environ, NODE_RANK=str(rank), MASTER_ADDR=head)
    return subprocess.call(["sh", os.path.join(FOLDER, "run.sh")], env=environment)


ray.init()
group = placement_group([TAKES] * HOSTS, strategy="STRICT_SPREAD")
ray.get(group.ready())


def on(rank):
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)


head = ray.get(address.options(num_cpus=0, scheduling_strategy=on(0)).remote())
whole = {{"num_cpus": TAKES["CPU"], "num_gpus": TAKES.get("GPU", 0), "resources": MORE}}
left = [start.options(scheduling_strategy=on(rank), **whole).remote(rank, head) for rank in range(HOSTS)]
while left:
    done, left = ray.wait(left)
    if code := ray.get(done[0]):
        sys.exit(code)
'''


def rayjob(job: Job) -> Scheduled | None:
    """The training, to its end: its cluster comes and goes with it."""
    if job.kind != "train":
        return None
    if job.image is None:
        return Scheduled(scheduler="kuberay RayJob", why=NO_IMAGE)
    folder = f"{WORK}/{job.place}"
    copy = f"sh -c 'mkdir -p {folder} && cp -L {PLAN}/* {folder}/ && exec python {folder}/on_ray.py'"
    spec = {
        "entrypoint": copy,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 3600,
        "backoffLimit": 2,
        "activeDeadlineSeconds": job.limit_s,
        "submitterPodTemplate": {"spec": _pod(job, "submitter", {"cpu": "500m", "memory": "512Mi"}, False)},
        "rayClusterSpec": _cluster(job),
    }
    on_ray = ON_RAY.format(hosts=job.hosts, takes=json.dumps(_takes(job)), folder=folder)
    files = {name: text for name, text in job.files.items() if not name.endswith(".service")}
    plan = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": job.name},
        "data": files | {"on_ray.py": on_ray},
    }
    text = documents(plan, _of("RayJob", job, spec))
    return Scheduled(scheduler="kuberay RayJob", files={"rayjob.yaml": text}, needs=_needs(job))


def raycluster(job: Job) -> Scheduled | None:
    """The same hosts as a cluster that stays, for jobs of one's own."""
    if job.kind != "train":
        return None
    if job.image is None:
        return Scheduled(scheduler="kuberay RayCluster", why=NO_IMAGE)
    text = documents(_of("RayCluster", job, _cluster(job, plan=False)))
    return Scheduled(scheduler="kuberay RayCluster", files={"raycluster.yaml": text}, needs=_needs(job))


def rayservice(job: Job) -> Scheduled | None:
    """The service by Ray Serve over vLLM: a replica a share of a host, with a queue in front of all."""
    if job.kind != "serve":
        return None
    name = "kuberay RayService"
    if job.engine != "vllm":
        return Scheduled(scheduler=name, why=f"Ray Serve starts vLLM, and the plan serves by {job.engine}")
    if job.image is None:
        return Scheduled(scheduler=name, why=NO_IMAGE)
    args = {k: v for k, v in job.engine_args.items() if k != "data_parallel_size"}  # replicas are Ray's
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": job.model.rsplit("/", 1)[-1], "model_source": _source(job)},
        "engine_kwargs": args,
        "deployment_config": {"num_replicas": job.replicas},
    }
    if "HPU" in _takes(job):  # Ray Serve would wait for a GPU for each worker
        model["placement_group_config"] = {"bundle_per_worker": {"HPU": 1}}
    served = {"name": "llm", "route_prefix": "/", "import_path": "ray.serve.llm:build_openai_app"}
    served["args"] = {"llm_configs": [model]}  # type: ignore[assignment]
    spec = {
        "serveConfigV2": documents({"applications": [served]}),
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": _cluster(job, plan=False),
    }
    named = () if job.source else weights_need(job.model, "rayservice.yaml")
    needs = (
        *_needs(job),
        *named,
        "it has no keys: steelyard serve --join in front of it, in the same namespace",
    )
    return Scheduled(
        scheduler=name, files={"rayservice.yaml": documents(_of("RayService", job, spec))}, needs=needs
    )


def _source(job: Job) -> str:
    """What a service loads; of what was trained its place on the disk of all parts."""
    return posixpath.normpath(f"{WORK}/{job.place}/{job.source}") if job.source else job.model


def _needs(job: Job) -> tuple[str, ...]:
    return (
        f"KubeRay 1.7 and Kueue 0.17 or later, a LocalQueue {job.queue}",
        f"an image of Ray {job.ray} with what {job.script} starts, for user 1000",
        *(f"{name} set in that image: {what}" for name, what in job.variables.items()),
        f"a PersistentVolumeClaim {job.disk} that all pods may write (ReadWriteMany), for {job.place}/",
    )


def _of(kind: str, job: Job, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {QUEUE: job.queue, "app.kubernetes.io/part-of": "steelyard"}
    kept = {name: value for name, value in spec.items() if value is not None}
    return {"apiVersion": API, "kind": kind, "metadata": {"name": job.name, "labels": labels}, "spec": kept}


# ------------------------------------------------------------------ pods


def _cluster(job: Job, plan: bool = True) -> dict[str, Any]:
    """A head that only drives, and a worker a host."""
    takes, start = _takes(job), {"num-cpus": str(job.host_cores)}
    if "GPU" in takes:
        start["num-gpus"] = str(job.per_host)
    elif "HPU" in takes:
        start["resources"] = json.dumps(
            json.dumps({"HPU": job.per_host})
        )  # quoted for the shell of ray start
    return {
        "rayVersion": job.ray,
        "authOptions": {"mode": "token"},
        "networkPolicy": _isolation(job),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0"},
            "template": {"spec": _pod(job, "ray-head", HEAD, plan)},
        },
        "workerGroupSpecs": [
            {
                "groupName": "hosts",
                "replicas": job.hosts,
                "minReplicas": job.hosts,
                "maxReplicas": job.hosts,
                "rayStartParams": start,
                "template": {"spec": _pod(job, "ray-worker", _limits(job), plan)},
            }
        ],
    }


def _takes(job: Job) -> dict[str, int]:
    """Of Ray's resources what a host gives to its share of the plan."""
    names = {"cuda": "GPU", "rocm": "GPU", "xpu": "GPU", "gaudi": "HPU"}
    return {"CPU": job.host_cores} | ({names[job.platform]: job.per_host} if not job.is_cpu else {})


def _limits(job: Job) -> dict[str, str]:
    name = DEVICES.get(job.platform) or f"gpu.intel.com/{'xe' if job.device in XE else 'i915'}"
    own = {"cpu": str(job.host_cores), "memory": f"{job.host_bytes // 2**30}Gi"}
    return own if job.is_cpu else own | {name: str(job.per_host)}


def _isolation(job: Job) -> dict[str, Any]:
    """Nobody from outside but the operator, which asks the dashboard; of a service the pods beside it."""
    operator = {
        "from": [
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
            }
        ],
        "ports": [{"port": 8265, "protocol": "TCP"}, {"port": 8000, "protocol": "TCP"}],
    }
    rules: dict[str, Any] = {"mode": "DenyAllIngress", "head": {"ingressRules": [operator]}}
    if job.kind == "serve":
        asked = {"from": [{"podSelector": {}}], "ports": [{"port": 8000, "protocol": "TCP"}]}
        rules["worker"] = {"ingressRules": [operator, asked]}
    return rules


def _pod(job: Job, name: str, limits: dict[str, str], plan: bool) -> dict[str, Any]:
    """A container with its limits as its requests: Kueue counts those."""
    volumes: list[dict[str, Any]] = []
    if name != "submitter":
        volumes.append({"name": "work", "persistentVolumeClaim": {"claimName": job.disk}})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    if plan:
        volumes.append({"name": "plan", "configMap": {"name": job.name}})
    places = {"work": WORK, "shm": "/dev/shm", "plan": PLAN}
    container = {
        "name": name,
        "image": job.image,
        "resources": {"requests": dict(limits), "limits": dict(limits)},
        "env": [{"name": "HF_HUB_DISABLE_TELEMETRY", "value": "1"}, {"name": "HOME", "value": "/tmp"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": v["name"], "mountPath": places[v["name"]]} for v in volumes],
    }
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }  # fmt: skip
    return pod | ({"restartPolicy": "Never"} if name == "submitter" else {})
