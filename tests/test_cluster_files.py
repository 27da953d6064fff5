"""What cluster/ ships: files that their readers take, closed to the world, of the versions that are pinned here."""

import copy
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import gantune

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "cluster"
LAUNCHED = ("onprem", "gpu", "gcp")  # by `ray up`
FILES = ["onprem.yaml", "gpu.yaml", "gcp.yaml", "kuberay.yaml", "slurm.sh"]
PYTHON = "3.11"  # the images', and the virtual environments'
CRDS = json.loads((ROOT / "tests/cluster/kuberay.schema.json").read_text())


def launched(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def resources(kind=None):
    found = list(yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()))
    return [each for each in found if each["kind"] == kind] if kind else found


def starts(config):
    """The commands that start Ray: the head's, and the workers'."""
    return [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]


def pinned(package):
    return re.search(
        rf"^{package}==([^;]+); python_version >= \"3.11\"$", (ROOT / "constraints.txt").read_text(), re.M
    )[1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_a_cluster_s_file(name):
    validate_config(prepare_config(launched(name)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_s_schema_knows_every_field(name):
    schema = json.loads(
        (Path(importlib.util.find_spec("ray.autoscaler").origin).parent / "ray-schema.json").read_text()
    )
    jsonschema.validate(launched(name), schema)
    broken = {**launched(name), "idle_timeout_minuts": 1}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        jsonschema.validate(broken, schema)


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_with_cost_needs_ports_and_four_commands(name):
    opening = (FOLDER / name).read_text().split("\n\n")[0]
    heads = re.findall(r"^# +(Costs|Needs|Ports|up|search|best|down) ", opening, re.M)
    assert heads == ["Costs", "Needs", "Ports", "up", "search", "best", "down"]
    assert "rices vary" in opening or name == "onprem.yaml"


@pytest.mark.parametrize("name", FILES)
def test_every_space_that_a_file_names_is_there(name):
    named = re.findall(r"search_spaces/\w+\.yaml", (FOLDER / name).read_text())
    assert named
    assert all((ROOT / path).is_file() for path in named)


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_copied_is_there_and_suffices_to_install(name):
    copied = {at: from_ for at, from_ in launched(name)["file_mounts"].items() if not from_.startswith("~")}
    assert all((ROOT / from_).exists() for from_ in copied.values())
    assert {
        f"~/gantune/{file}" for file in ("gantune", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
    } <= set(copied)


# Safety


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_starts_with_a_token_that_every_machine_has(name):
    config = launched(name)
    for command in starts(config):
        assert command.startswith("export RAY_AUTH_MODE=token")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in line and ".bashrc" in line for line in config["setup_commands"])  # drivers
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    assert "ray get-auth-token --generate" in (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", LAUNCHED)
def test_dashboard_and_jobs_listen_on_the_loopback(name):
    head, worker = starts(launched(name))
    assert "--dashboard-host=127.0.0.1" in shlex.split(head)
    assert "--head" in shlex.split(head)
    assert "--head" not in shlex.split(worker)


def test_local_machines_are_started_by_the_autoscaler_that_starts_all_of_them():
    assert "RAY_enable_autoscaler_v2=0" in starts(launched("onprem"))[0]


def test_no_machine_on_aws_gets_ray_s_security_group_which_opens_ssh_to_the_world():
    config = launched("gpu")
    assert "security_group" not in config["provider"]
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        assert node["SecurityGroupIds"], name
        assert node["SubnetIds"], name
        assert "NetworkInterfaces" not in node, name
        assert re.fullmatch(r"ami-[0-9a-f]{17}", node["ImageId"]), name  # left out, Ray takes an old one
    assert "0.0.0.0" not in (FOLDER / "gpu.yaml").read_text()


def test_machines_on_aws_have_encrypted_disks_imdsv2_and_a_profile_of_their_own():
    types = launched("gpu")["available_node_types"]
    for kind in types.values():
        node = kind["node_config"]
        assert all(disk["Ebs"]["Encrypted"] is True for disk in node["BlockDeviceMappings"])
        assert node["MetadataOptions"]["HttpTokens"] == "required"
    profiles = {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in types.items()}
    assert profiles == {"head": "gantune-head", "worker": "gantune-worker"}


@pytest.mark.parametrize("name", ["head", "worker"])
def test_a_policy_on_aws_opens_one_bucket(name):
    statements = json.loads((FOLDER / f"aws-{name}.json").read_text())["Statement"]
    s3 = [each for each in statements if any(action.startswith("s3:") for action in each["Action"])]
    assert {each["Resource"] for each in s3} == {"arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/*"}
    done = {action for each in s3 for action in each["Action"]}
    assert done == {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}  # runs there are tidied up
    broad = {action for each in statements for action in each["Action"] if "*" in action}
    assert broad <= {"ec2:Describe*"}
    assert name == "head" or s3 == statements


def test_machines_on_gcp_are_in_a_network_of_one_s_own():
    types = launched("gcp")["available_node_types"]
    for kind in types.values():
        assert all("subnetworks/gantune" in each["subnetwork"] for each in kind["node_config"]["networkInterfaces"])
    assert "0.0.0.0" not in (FOLDER / "gcp.yaml").read_text()


@pytest.mark.parametrize(("name", "market"), [("gpu", "InstanceMarketOptions"), ("gcp", "scheduling")])
def test_clouds_rent_gpus_when_needed_on_the_spot_market_and_a_head_that_trains_nothing(name, market):
    config = launched(name)
    head, worker = (config["available_node_types"][each] for each in ("head", "worker"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert market not in head["node_config"]
    assert worker["min_workers"] == 0
    assert worker["resources"]["GPU"] == 1
    assert "spot" in json.dumps(worker["node_config"][market]).lower()
    assert config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False


# Kubernetes


def problems(resource):
    return [error.message for error in jsonschema.Draft7Validator(CRDS[resource["kind"]]).iter_errors(resource)]


def test_kuberay_takes_its_resources():
    assert [each["kind"] for each in resources()] == ["PersistentVolumeClaim", "NetworkPolicy", "RayCluster", "RayJob"]
    for kind in ("RayCluster", "RayJob"):
        (found,) = resources(kind)
        assert problems(found) == []
        broken = copy.deepcopy(found)
        broken["spec"]["clusterSelektor"] = {}
        assert "clusterSelektor" in problems(broken)[0]


def test_kubernetes_takes_volumes_policies_and_pods():
    for resource in (*resources("PersistentVolumeClaim"), *resources("NetworkPolicy")):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    (cluster,), (job,) = resources("RayCluster"), resources("RayJob")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for template in (*(group["template"] for group in groups), job["spec"]["submitterPodTemplate"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        assert all(
            each["image"] == f"REGISTRY/gantune:{gantune.__version__}" for each in template["spec"]["containers"]
        )


def test_a_cluster_on_kubernetes_has_a_token_grows_from_nothing_and_is_closed():
    (cluster,), (job,), (policy,) = resources("RayCluster"), resources("RayJob"), resources("NetworkPolicy")
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert (
        spec["headGroupSpec"]["rayStartParams"] | {"num-cpus": "0", "num-gpus": "0"}
        == spec["headGroupSpec"]["rayStartParams"]
    )
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == 0
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    chosen = {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["clusterSelector"] == chosen == policy["spec"]["podSelector"]["matchLabels"]
    assert all(
        set(source) <= {"podSelector", "namespaceSelector"} and source["podSelector"]
        for rule in policy["spec"]["ingress"]
        for source in rule["from"]
    )


# Slurm


def test_slurm_s_script_is_sound_shell():
    script = FOLDER / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    checked = subprocess.run([Path(sys.prefix) / "bin/shellcheck", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_job_on_slurm_comes_back_and_has_a_token():
    script = (FOLDER / "slurm.sh").read_text()
    asked = re.findall(r"^#SBATCH (\S+)", script, re.M)
    assert {"--requeue", "--open-mode=append", "--exclusive"} <= set(asked)
    assert not any(option.startswith("--array") for option in asked)
    assert "export" in script
    assert "RAY_AUTH_MODE=token" in script
    assert "ray symmetric-run" in script


# Versions


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml", "Dockerfile"])
def test_images_have_the_pinned_ray_and_python(name):
    images = re.findall(r"rayproject/ray:(\S+)", (FOLDER / name).read_text())
    assert images
    assert {image.rsplit("-", 1)[0] for image in images} == {f"{pinned('ray')}-py{PYTHON.replace('.', '')}"}


def test_what_is_pinned_is_what_gantune_is_tested_with():
    assert resources("RayCluster")[0]["spec"]["rayVersion"] == pinned("ray")
    assert f"gantune:{gantune.__version__} " in (FOLDER / "Dockerfile").read_text()
    for name in ("onprem.yaml", "slurm.sh"):
        assert set(re.findall(r"python(3\.\d+)", (FOLDER / name).read_text())) == {PYTHON}
    for name in (*FILES, "Dockerfile"):
        installed = re.findall(r"pip install[^\n]*\[cluster\]", (FOLDER / name).read_text())
        assert all("-c " in line and "constraints.txt" in line for line in installed)
