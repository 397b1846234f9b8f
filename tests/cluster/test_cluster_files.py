"""The files that start clusters: accepted by the schemas of those who read them, and a typo in any of them is not."""

import copy
import importlib
import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
RAYJOB_SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text("utf-8"))
# The names below ``spec`` of KubeRay v1.7.0's ray.io_rayservices.yaml (Apache-2.0); what a RayJob calls rayClusterSpec
# is rayClusterConfig there.
RAYSERVICE_SCHEMA = copy.deepcopy(RAYJOB_SCHEMA)
RAYSERVICE_SCHEMA["properties"]["kind"] = {"const": "RayService"}
RAYSERVICE_SCHEMA["properties"]["spec"] |= {
    "properties": {
        "rayClusterConfig": RAYJOB_SCHEMA["properties"]["spec"]["properties"]["rayClusterSpec"],
        "serveConfigV2": {"type": "string"},
        "deploymentUnhealthySecondThreshold": True, "excludeHeadPodFromServeSvc": True, "managedBy": True,
        "rayClusterDeletionDelaySeconds": True, "serveService": True, "serviceUnhealthySecondThreshold": True,
        "suspend": True, "upgradeStrategy": True,
    },
    "required": ["rayClusterConfig"],
}  # fmt: skip
SCHEMAS = {
    "machines.yaml": RAY_SCHEMA,
    "aws.yaml": RAY_SCHEMA,
    "rayjob.yaml": RAYJOB_SCHEMA,
    "rayservice.yaml": RAYSERVICE_SCHEMA,
}
IMAGE_TAG = re.compile(r"mmray:ray(\d+\.\d+\.\d+)-(cpu|cu\d+)")


def load(name):
    return yaml.safe_load((CLUSTER / name).read_text("utf-8"))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def ray_cluster(name):
    """Return the cluster of a KubeRay file."""
    spec = load(name)["spec"]
    return spec["rayClusterConfig"] if "rayClusterConfig" in spec else spec["rayClusterSpec"]


def ray_version():
    """The version of Ray that constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return next(line.split("==")[1].split(";")[0].strip() for line in lines if re.match(r"ray(\[.*\])?==", line))


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_file_fits_its_schema(name):
    jsonschema.validate(load(name), SCHEMAS[name])


@pytest.mark.parametrize("name", ["machines.yaml", "aws.yaml"])
def test_ray_up_accepts_the_file(name):
    prepared = prepare_config(load(name))
    validate_config(prepared)
    assert prepared["docker"]["image"]


JOB = ("spec", "rayClusterSpec")
WORKER = (*JOB, "workerGroupSpecs", 0)
CONTAINER = (*WORKER, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("name", "path", "key", "typo"),
    [
        ("machines.yaml", (), "head_start_ray_commands", "head_start_commands"),
        ("machines.yaml", ("auth",), "ssh_user", "ssh_usr"),
        ("aws.yaml", ("docker",), "run_options", "run_option"),
        ("aws.yaml", ("available_node_types", "gpu_spot"), "max_workers", "max_worker"),
        ("rayjob.yaml", ("spec",), "shutdownAfterJobFinishes", "shutDownAfterJobFinishes"),
        ("rayjob.yaml", (*JOB, "authOptions"), "mode", "modus"),
        ("rayjob.yaml", WORKER, "maxReplicas", "maxReplica"),
        ("rayjob.yaml", CONTAINER, "volumeMounts", "volumeMount"),
        ("rayjob.yaml", (*CONTAINER, "resources"), "limits", "limit"),
        ("rayjob.yaml", (*CONTAINER, "securityContext"), "allowPrivilegeEscalation", "allowPrivilegesEscalation"),
        ("rayjob.yaml", (*WORKER, "template", "spec", "tolerations", 0), "operator", "op"),
        ("rayjob.yaml", (*WORKER, "template", "spec", "volumes", 0, "emptyDir"), "sizeLimit", "size_limit"),
        ("rayservice.yaml", ("spec",), "serveConfigV2", "serveConfig"),
        ("rayservice.yaml", ("spec",), "rayClusterConfig", "rayClusterSpec"),
        ("rayservice.yaml", ("spec", "rayClusterConfig", *CONTAINER[2:]), "volumeMounts", "volumeMount"),
    ],
)
def test_a_typo_is_refused(name, path, key, typo):
    config = copy.deepcopy(load(name))
    place = at(config, path)
    place[typo] = place.pop(key)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, SCHEMAS[name])


def test_machines_are_addresses_kept_for_documentation():
    provider = load("machines.yaml")["provider"]
    assert all(ip.startswith("192.0.2.") for ip in [provider["head_ip"], *provider["worker_ips"]])


def test_aws_puts_workers_on_the_spot_market_and_the_head_not():
    config = load("aws.yaml")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    for worker in types.values():
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert worker["resources"]["GPU"] == 1


def test_rayjob_keeps_its_promises():
    job = load("rayjob.yaml")["spec"]
    cluster = ray_cluster("rayjob.yaml")
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    assert job["entrypoint"].startswith("python jobs/extract.py ")
    assert job["shutdownAfterJobFinishes"]
    assert job["backoffLimit"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert any("spot" in toleration["key"] for toleration in pods[1]["tolerations"])
    for pod in pods:
        mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volume = next(volume for volume in pod["volumes"] if volume["name"] == mounted["/dev/shm"])
        assert volume["emptyDir"]["medium"] == "Memory"
    for pod in [*pods, job["submitterPodTemplate"]["spec"]]:
        # KubeRay refuses any other with its second autoscaler.
        assert pod.get("restartPolicy", "Never") == "Never"
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert all("secretRef" in source for source in container.get("envFrom", []))


def test_rayservice_serves_what_ray_serve_reads_and_keeps_its_promises():
    service = load("rayservice.yaml")["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))
    assert config.proxy_location == "EveryNode", "KubeRay's readiness probe asks the proxy of each worker"
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    cluster = ray_cluster("rayservice.yaml")
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert all("secretRef" in source for source in container.get("envFrom", []))
        for container in pod["containers"]:
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert str(Path(application.args["config"]).parent) in mounted
            assert set(mounted.values()) <= {volume["name"] for volume in pod["volumes"]}


def test_the_deployment_on_one_machine_is_bound_to_loopback():
    config = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "configs" / "serve-deploy.yaml").read_text("utf-8"))
    )
    assert config.http_options.host == "127.0.0.1"
    assert (ROOT / config.applications[0].args["config"]).is_file()


@pytest.mark.parametrize("name", ["machines.yaml", "aws.yaml", "rayjob.yaml", "rayservice.yaml"])
def test_every_cluster_wants_a_token(name):
    text = (CLUSTER / name).read_text("utf-8")
    assert "RAY_AUTH_MODE=token" in text or ray_cluster(name)["authOptions"]["mode"] == "token"
    assert "--dashboard-host=0.0.0.0" not in text


@pytest.mark.parametrize("name", ["machines.yaml", "aws.yaml", "rayjob.yaml", "rayservice.yaml", "Dockerfile"])
def test_images_carry_the_pinned_ray(name):
    text = (CLUSTER / name).read_text("utf-8")
    found = [match[1] for match in IMAGE_TAG.finditer(text)]
    assert found
    assert set(found) == {ray_version()}


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_kuberay_is_told_the_pinned_ray(name):
    assert ray_cluster(name)["rayVersion"] == ray_version()


def test_dockerfile_keeps_its_promises():
    lines = (CLUSTER / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    rest = {word: [step[1] for step in steps if step[0] == word] for word, _ in steps}
    assert rest["FROM"] == ["python:3.11-slim"]
    assert rest["USER"][-1] not in ("root", "0")
    assert rest["ARG"] == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    assert "ADD" not in rest
    installs = [step for step in rest["RUN"] if "pip install" in step]
    assert installs
    assert all("--constraint constraints.txt" in step and "$TORCH_INDEX" in step for step in installs)
    # Only what is named is copied: no data, key or token of a checkout.
    assert all(step.split()[0] not in (".", "./", "*") for step in rest["COPY"])
    assert not re.search(r"(?i)secret|password|token=(?!\s)", "\n".join(rest["RUN"] + rest["COPY"]))


@pytest.fixture
def submit(tmp_path):
    """Run a copy of submit.sh beside a jobs/extract.py, with a ``ray`` that writes down how it was called."""
    for folder in ("cluster", "jobs", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "jobs" / "extract.py").touch()
    (tmp_path / "cluster" / "submit.sh").write_text((CLUSTER / "submit.sh").read_text("utf-8"), "utf-8")
    fake = tmp_path / "bin" / "ray"
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$PWD" "$RAY_API_SERVER_ADDRESS" "$@" > "$CALLED"\nexit 7\n', "utf-8")
    fake.chmod(0o755)

    def run(*arguments, **environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        env = {"PATH": path, "CALLED": str(tmp_path / "called"), **environment}
        script = ["bash", str(tmp_path / "cluster" / "submit.sh"), *arguments]
        done = subprocess.run(script, cwd="/", env=env, capture_output=True, text=True, check=False)
        called = tmp_path / "called"
        return done, called.read_text("utf-8").split("\0")[:-1] if called.exists() else None

    return run


AWKWARD = ["configs/my run.yaml", "--set", "text='a \"b\" $HOME `id` \\ *'", "--limit", "", "ü;&|"]


def test_submit_passes_every_argument_unbroken(submit, tmp_path):
    done, (folder, address, *called) = submit("extract", *AWKWARD)
    assert done.returncode == 7, "what ray says is what submit.sh says"
    assert Path(folder) == tmp_path
    assert address == "http://127.0.0.1:8265"
    assert called == ["job", "submit", "--working-dir", ".", "--", "python", "jobs/extract.py", *AWKWARD]


def test_submit_takes_an_id_and_another_address(submit):
    _, (_, address, *called) = submit("--id", "run 1", "extract", RAY_API_SERVER_ADDRESS="http://192.0.2.10:8265")
    assert address == "http://192.0.2.10:8265"
    assert called[:7] == ["job", "submit", "--working-dir", ".", "--submission-id", "run 1", "--"]


@pytest.mark.parametrize("arguments", [[], ["dance"], ["../jobs/extract"], ["--id"], ["--id", "", "extract"]])
def test_submit_refuses_what_is_no_verb(submit, arguments):
    done, called = submit(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("submit.sh: ")
    assert called is None


def test_submit_is_sound_bash():
    script = CLUSTER / "submit.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text("utf-8")
