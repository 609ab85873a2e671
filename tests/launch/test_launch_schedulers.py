"""Files for KubeRay, SkyPilot, Slurm and systemd: each by its reader's schema, no secret in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from steelyard.launch import DIGEST, Job, Service, scheduled, service_target

SCHEMAS = Path(__file__).parent / "schemas"
IMAGE = "registry.example/team/ray-trl@sha256:" + "5c1f" * 16
DEVICES = {
    "h100-sxm": ("cuda", None), "mi300x": ("rocm", None), "max-1550": ("xpu", None),
    "arc-b580": ("xpu", None), "gaudi2": ("gaudi", None), "xeon-8592plus": ("cpu", 64),
}  # fmt: skip
FILES = {
    "run.sh": "#!/bin/sh\nset -eu\nexec true\n",
    "serve.sh": "#!/bin/sh\nexec true\n",
    "trl.yaml": "a: no\n",
}
ENGINE_ARGS = {"max_num_seqs": 16, "tensor_parallel_size": 2, "data_parallel_size": 4}


def job(kind: str = "train", device: str = "h100-sxm", hosts: int = 1, **words: Any) -> Job:
    platform, cores = DEVICES[device]
    own = {"engine": "ovms" if platform == "cpu" else "vllm", "engine_args": ENGINE_ARGS, "replicas": 4}
    return Job(
        **{
            "kind": kind, "plan": "org/Qwen3 14B", "place": kind, "model": "org/Qwen3 14B", "device": device,
            "platform": platform, "hosts": hosts,
            "per_host": 8, "files": FILES, "folder": "/srv/plan/train", "user": "me", "device_bytes": 80e9,
            "cores": cores, "image": IMAGE, "expected_s": 9000.0 if kind == "train" else 0.0,
            **(own if kind == "serve" else {}), **words,
        }
    )  # fmt: skip


JOBS = [job(kind, device, hosts) for kind, device, hosts in product(("train", "serve"), DEVICES, (1, 4))]


def each(kind: str) -> Iterator[tuple[Job, str, str]]:
    """(job, file, text) of a scheduler's files over all jobs."""
    for one in JOBS:
        for made in scheduled(one):
            if made.scheduler.startswith(kind):
                for name, text in made.files.items():
                    yield one, name, text


def read(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / name).read_text())


@pytest.fixture(scope="module")
def kuberay():
    """{kind: its validator}."""
    whole = schema("kuberay.json")
    kinds = ("RayCluster", "RayJob", "RayService")
    return {kind: jsonschema.Draft202012Validator(whole[kind] | {"$defs": whole["$defs"]}) for kind in kinds}


def test_kuberay_takes_every_file(kuberay) -> None:
    seen = set()
    for one, name, text in each("kuberay"):
        for document in read(text):
            seen.add(document["kind"])
            if document["kind"] == "ConfigMap":
                assert document["data"]["run.sh"] == FILES["run.sh"] and "on_ray.py" in document["data"]
                compile(document["data"]["on_ray.py"], "on_ray.py", "exec")
                continue
            faults = [error.message for error in kuberay[document["kind"]].iter_errors(document)]
            assert faults == [], (name, one)
            assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "steelyard"
    assert seen == {"ConfigMap", "RayCluster", "RayJob", "RayService"}


def test_the_schema_refuses_what_is_wrong(kuberay) -> None:
    """So a file that passes says something."""
    text = next(text for _, name, text in each("kuberay") if name == "raycluster.yaml")
    for wrong in ({"workerGroup": []}, {"headGroupSpec": {}}, {"workerGroupSpecs": [{"groupName": "x"}]},
                  {"networkPolicy": {"mode": "Open"}}, {"authOptions": {"mode": "none"}}):  # fmt: skip
        (document,) = read(text)
        document["spec"] |= wrong
        assert list(kuberay["RayCluster"].iter_errors(document)), wrong


def test_pods_have_no_right_that_they_do_not_need() -> None:
    for _, _, text in each("kuberay"):
        for document in read(text):
            for pod in pods(document):
                assert pod["automountServiceAccountToken"] is False
                assert pod["securityContext"]["runAsNonRoot"] is True
                for container in pod["containers"]:
                    assert DIGEST.fullmatch(container["image"])
                    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                    assert container["resources"]["requests"] == container["resources"]["limits"]
                    assert {e["name"] for e in container["env"]} == {"HF_HUB_DISABLE_TELEMETRY", "HOME"}


def pods(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


@pytest.mark.parametrize(
    ("device", "name"),
    [("h100-sxm", "nvidia.com/gpu"), ("mi300x", "amd.com/gpu"), ("max-1550", "gpu.intel.com/i915"),
     ("arc-b580", "gpu.intel.com/xe"), ("gaudi2", "habana.ai/gaudi"), ("xeon-8592plus", None)],
)  # fmt: skip
def test_a_worker_takes_the_devices_of_its_host(device: str, name: str | None) -> None:
    (text,) = [
        t
        for one, n, t in each("kuberay")
        if n == "raycluster.yaml" and one.device == device and one.hosts == 4
    ]
    (document,) = read(text)
    (group,) = document["spec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["replicas"] == 4 and limits.get(name, "8") == "8"
    assert set(limits) == {"cpu", "memory"} | ({name} if name else set())
    assert limits["cpu"] == ("512" if device == "xeon-8592plus" else "64")


def test_a_service_by_ray_has_the_plans_settings() -> None:
    (text,) = [
        t
        for one, n, t in each("kuberay")
        if n == "rayservice.yaml" and one.device == "h100-sxm" and one.hosts == 1
    ]
    (document,) = read(text)
    (served,) = read(document["spec"]["serveConfigV2"])[0]["applications"]
    (model,) = served["args"]["llm_configs"]
    assert model["engine_kwargs"] == {"max_num_seqs": 16, "tensor_parallel_size": 2}
    assert model["deployment_config"] == {"num_replicas": 4} and "placement_group_config" not in model


def test_a_service_by_ray_on_gaudi_asks_for_gaudi() -> None:
    """Ray Serve takes {"GPU": 1} for each worker of vLLM where nothing is said (its placement_bundles)."""
    made = {m.scheduler: m for m in scheduled(job("serve", "gaudi2"))}
    (document,) = read(made["kuberay RayService"].files["rayservice.yaml"])
    (served,) = read(document["spec"]["serveConfigV2"])[0]["applications"]
    (model,) = served["args"]["llm_configs"]
    assert model["placement_group_config"] == {"bundle_per_worker": {"HPU": 1}}
    (group,) = document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert json.loads(json.loads(group["rayStartParams"]["resources"])) == {"HPU": 8}


REPLICAS = Service(
    model="org/x", engine="ovms", platform="cpu", device="xeon-8592plus", hosts=1, here=2, cache_bytes=2**35,
    settings={"tp": 2, "pp": 1, "ep": 1, "replicas": 2, "weights": "int8", "kv_bits": 8, "batch": 4},
)  # fmt: skip
STAND_INS = {  # programs that only say how they are started; srun as it is on one host
    "numactl": 'echo "$@" > said.$REPLICA\nwhile ! test -s said.0 -a -s said.1; do sleep 0.05; done',
    "srun": 'for id in 0 1; do SLURM_LOCALID=$id SLURM_NODEID=0 "$3" "$4" "$5" & done; wait',
    "scontrol": "echo here",
}


@pytest.mark.parametrize("by", ["slurm.sbatch", "skypilot.yaml"])
def test_each_replica_of_a_host_is_started_on_its_own_sockets(tmp_path: Path, by: str) -> None:
    """By the scheduler's own script, beside programs that only say what they were given."""
    files = service_target(REPLICAS).files
    made = scheduled(job("serve", "xeon-8592plus", files=files, per_host=4, starts=REPLICAS.here))
    text = {name: text for m in made for name, text in m.files.items()}[by]
    if by == "skypilot.yaml":
        (task,) = read(text)
        text = task["run"].replace("~/sky_workdir", str(tmp_path))
        assert any("-L 8001:127.0.0.1:8001" in need for m in made for need in m.needs)
    else:
        assert "--ntasks-per-node=2\n" in text and "--cpus-per-task=128\n" in text
    (tmp_path / "serve.sh").write_text(files["serve.sh"])
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    own = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    more = {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "10.0.0.1", "SLURM_JOB_NODELIST": "here"}
    subprocess.run(["bash", "-c", text], env=own | more, cwd=tmp_path, capture_output=True, timeout=20)
    for replica, nodes in enumerate(("0-1", "2-3")):
        said = (tmp_path / f"said.{replica}").read_text().split()
        assert said[said.index("--rest_port") + 1] == str(8000 + replica)
        assert said[said.index("--cpunodebind") + 1] == said[said.index("--membind") + 1] == nodes
    assert "one replica started before the others" in " ".join(service_target(REPLICAS).needs)


def test_what_cannot_be_written_says_why() -> None:
    why = {made.scheduler: made.why for made in scheduled(job(image=None)) if made.why}
    assert set(why) == {"kuberay RayCluster", "kuberay RayJob"} and all(
        "--image" in text for text in why.values()
    )
    (why,) = [m.why for m in scheduled(job("serve", "xeon-8592plus")) if m.why]
    assert "ovms" in why
    assert {m.scheduler for m in scheduled(job(device="max-1550")) if m.why} == {"skypilot"}


def test_skypilot_takes_every_file() -> None:
    whole = schema("skypilot.json")
    count = 0
    for one, _, text in each("skypilot"):
        (task,) = read(text)
        jsonschema.validate(task, whole["task"])
        jsonschema.validate(task["resources"], whole["resources"])
        assert task["num_nodes"] == one.hosts and task["resources"]["image_id"] == f"docker:{IMAGE}"
        assert "service" not in task and "ports" not in task["resources"]  # nothing is opened to the world
        count += 1
    assert count == 12
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"nodes": 2}, whole["task"])


def test_slurm_has_every_option() -> None:
    options = schema("slurm.json")
    for one, _, text in each("slurm"):
        given = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M)
        assert len(given) == text.count("#SBATCH") and text.startswith("#!/bin/sh\n#SBATCH")
        for name, value in given:
            assert (
                options["sbatch"][name] == "value" if value else options["sbatch"][name] in ("switch", "may")
            )
        for name, value in re.findall(r"srun --([a-z-]+)(=\S+)?", text):
            assert options["srun"][name] in (("value", "may") if value else ("switch", "may"))
        said = dict(given)
        assert said["nodes"] == str(one.hosts) and ("time" in said) == (one.kind == "train")
        done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert said.get("gres") is None and "0-05:00:00" in next(each("slurm"))[2]


@pytest.mark.parametrize("folder", ["/srv/plan/train", "/srv/my plans $5 100%/train"])
@pytest.mark.parametrize("hosts", [1, 4])
def test_systemd_takes_the_unit_of_a_training(tmp_path: Path, folder: str, hosts: int) -> None:
    own = str(tmp_path) + folder
    made = {m.scheduler: m for m in scheduled(job(hosts=hosts, folder=own, model="a\nExecStart=/bin/false"))}
    (text,) = made["systemd"].files.values()
    assert "\nExecStart=/bin/false" not in text and "ProtectSystem=strict" in text
    (file,) = re.findall(r"^EnvironmentFile=(.+)$", text, re.M)  # of one host it may be left out
    assert file == "-" * (hosts == 1) + own.replace("%", "%%") + "/host.env" and "HF_TOKEN" in text
    caches = re.findall(r'^Environment="?(\w+)=(.+?)"?$', text, re.M)
    assert {name for name, _ in caches} == {"HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"}
    assert all(place.startswith(own.replace("%", "%%") + "/") for _, place in caches)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    Path(own).mkdir(parents=True)
    (Path(own) / "run.sh").write_text("exit\n")
    (Path(own) / "host.env").write_text("NODE_RANK=0\nMASTER_ADDR=10.0.0.1\n")
    path = tmp_path / "steelyard-train.service"
    path.write_text(text.replace("User=me", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert "steelyard-train" not in done.stderr, done.stderr


@pytest.mark.parametrize("plan", ["客服", "售后 v2", "a" * 90, "Support (v2)/", "--", "org/x_y.Z"])
def test_each_part_of_a_plan_has_a_name_of_its_own(plan: str) -> None:
    parts = [job(plan=plan, place=place) for place in ("train-1", "train-2", "train-10")]
    parts.append(job("serve", plan=plan))
    names = [one.name for one in parts] + [parts[0].disk, job(plan="其他 v2").disk]
    assert len(set(names)) == 6
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name) for name in names), names
    units = [
        name for one in parts[:3] for m in scheduled(one) for name in m.files if name.endswith(".service")
    ]
    assert units == [f"steelyard-train-{number}.service" for number in (1, 2, 10)]


def test_what_a_script_must_be_told_is_asked_for() -> None:
    """Before it starts, by each scheduler in its own way."""
    one = job(variables={"MEGATRON": "the folder of Megatron-LM"}, hosts=2)
    made = {m.scheduler: m for m in scheduled(one)}
    for name in ("slurm", "skypilot", "systemd", "kuberay RayJob"):
        assert any("MEGATRON" in need for need in made[name].needs), name
    assert read(made["skypilot"].files["skypilot.yaml"])[0]["envs"] == {"MEGATRON": None}
    jsonschema.validate(read(made["skypilot"].files["skypilot.yaml"])[0], schema("skypilot.json")["task"])
    unit = made["systemd"].files["steelyard-train.service"]
    assert "EnvironmentFile=/srv/plan/train/host.env\n" in unit and "MEGATRON=" in unit
    alone = scheduled(job(variables=one.variables))[2].files["steelyard-train.service"]
    assert "EnvironmentFile=/srv/plan/train/host.env\n" in alone


ENDS = {
    "exec sleep 60": 124,  # past its limit
    "trap '' TERM; while :; do sleep 1; done": 137,  # and deaf: killed
    "exit 3": 3,
    "kill -9 $$": -9,  # by another: a signal, and systemd starts it again
}


@pytest.mark.parametrize("training", ENDS)
def test_a_training_past_its_limit_is_not_started_again(tmp_path: Path, training: str) -> None:
    """By the exit code of the unit's own command, with shorter times."""
    (tmp_path / "run.sh").write_text(training)
    made = scheduled(job(folder=str(tmp_path)))
    (unit,) = [text for m in made for name, text in m.files.items() if name.endswith(".service")]
    start = re.search(r"^ExecStart=(.+)$", unit, re.M)[1]
    assert " 18000 " in start and "RuntimeMaxSec" not in unit
    words = start.replace("18000", "0.3").replace("after=90", "after=0.2").split()
    code = subprocess.run(words, start_new_session=True, stderr=subprocess.DEVNULL).returncode
    assert code == ENDS[training]
    ended = re.search(r"^RestartPreventExitStatus=(.+)$", unit, re.M)[1].split()
    assert (str(code) in ended) == (code in (124, 137))


def test_nothing_of_a_secret_is_in_any_file() -> None:
    words = re.compile(r"(?i)(password|passwd|api[_-]?key|secret|private key|bearer)")
    for kind in ("kuberay", "skypilot", "slurm", "systemd"):
        for _, name, text in each(kind):
            assert not words.search(text), name


@pytest.mark.parametrize(
    "image", ["ray:2.60", "ray@sha256:12", "Ray@sha256:" + "a" * 64, "ray@sha256:" + "a" * 64 + "\n"]
)
def test_only_a_digest_names_an_image(image: str) -> None:
    assert DIGEST.fullmatch(image) is None
