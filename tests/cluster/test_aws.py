"""cluster/gpu.yaml brought up for real on a simulated EC2: spot workers that come, are taken away, and go when idle.

Replaced in the shipped file, and nothing else: the ids of subnet and security group, which are made as the file says;
the user, and the address by which the head is reached; containers and what is installed, for the hosts see the virtual
environment of these tests; the idle time-out and the most workers; and Ray's start, which gets little memory.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .cloud import ADDRESS, MOTO, NETWORK, PORT, REGION, SETTINGS, SUBNET, ZONE, Cloud, Feed, linked_boto
from .hosts import Lab, missing
from .test_onprem import ROOT, SPACE, _packages, note, wait  # noqa: F401

LAPTOP = "10.77.0.3"
BUCKET = "gantune-lab"
RUNS = f"s3://{BUCKET}/runs?endpoint_override={ADDRESS}:{PORT}&region={REGION}&scheme=http"
RUN = RUNS.replace("/runs", "/runs/lab")
TRIALS, WORKERS = 10, 4
SAMPLES = int(os.environ.get("GANTUNE_LAB_SAMPLES", "300000"))
REPORTS = SPACE["objective"]["reports"]
CONFIG = "/root/gpu.yaml"
SPACE = {
    **SPACE,
    "budget": {"trials": TRIALS, "samples_per_trial": SAMPLES},
    "collapse": {"enabled": False},  # so small a network would not last until its machine is taken away
    "space": {**SPACE["space"], "architecture": {"mlp": {"hidden": 8, "depth": 2, "z_dim": 8}}},
}
WORLD = {"0.0.0.0/0", "::/0"}

MADE = f"""
vpc = ec2.create_vpc(CidrBlock="{NETWORK}")["Vpc"]["VpcId"]
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="{SUBNET}", AvailabilityZone="{ZONE}")["Subnet"]["SubnetId"]
group = ec2.create_security_group(GroupName="gantune", Description="gantune", VpcId=vpc)["GroupId"]
ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[
    {{"IpProtocol": "-1", "UserIdGroupPairs": [{{"GroupId": group}}]}},
    {{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{{"CidrIp": "{LAPTOP}/32"}}]}},
])
for name in ("gantune-head", "gantune-worker"):
    iam.create_instance_profile(InstanceProfileName=name)
s3.create_bucket(Bucket="{BUCKET}", CreateBucketConfiguration={{"LocationConstraint": "{REGION}"}})
print(json.dumps({{"subnet": subnet, "group": group}}))
"""
# What a group lets in from where, by group
RULES = """
found = ec2.describe_security_groups(GroupIds={groups})["SecurityGroups"]
print(json.dumps({{group["GroupId"]: [
    source
    for rule in group["IpPermissions"]
    for source in [each["CidrIp"] for each in rule["IpRanges"]] + [each["CidrIpv6"] for each in rule["Ipv6Ranges"]]
] for group in found}}))
"""
# The groups of a cluster's machines, as Ray makes or finds them before it starts any
PREPARED = f"""
import json, yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config
config = yaml.safe_load(open("{CONFIG}"))
for kind in config["available_node_types"].values():
    del kind["node_config"]["SecurityGroupIds"]
kinds = bootstrap_aws(prepare_config(config))["available_node_types"].values()
print("\\n" + json.dumps([group for kind in kinds for group in kind["node_config"]["SecurityGroupIds"]]))
"""
# The rows of the run, as they come
ROWS = f"""
import json, time
from gantune.api import open_run
from gantune.errors import GantuneError
while True:
    try:
        rows = open_run("{RUN}").results.rows()
    except (GantuneError, OSError):
        rows = []
    print(json.dumps([
        {{"trial": row.trial, "state": row.state, "seen": row.samples_seen, "seconds": row.trial_seconds,
         "place": row.place}} for row in rows
    ]), flush=True)
    time.sleep(3)
"""

pytestmark = [
    pytest.mark.skipif("GANTUNE_LAB" not in os.environ, reason="takes minutes: make lab"),
    pytest.mark.skipif(bool(missing()), reason=f"a lab of hosts {missing()}"),
    pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs pip install '.[cluster]'"),
    pytest.mark.skipif(MOTO is None, reason="moto_server is not on the PATH; see tests/moto.txt"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aws")
    shown = (sys.prefix, sys.base_prefix, ROOT, Path(MOTO).parent.parent, *_packages())
    lab = Lab(folder, {str(Path(path)): Path(path) for path in shown})
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def cloud(lab):
    """A cloud with what the file's opening asks for, and a laptop beside it."""
    boto = linked_boto(lab.folder / "boto")
    settings = {"PATH": f"{sys.prefix}/bin:$PATH", "PYTHONPATH": f"~/gantune:{boto}", "OMP_NUM_THREADS": "1"}
    image = "".join(f"export {name}={value}\n" for name, value in {**settings, **SETTINGS}.items())
    lab.shown[str(boto)] = boto
    lab.host("laptop", LAPTOP)
    cloud = Cloud(lab, image)
    try:
        yield cloud
    finally:
        cloud.close()


@pytest.fixture(scope="module")
def cluster(lab, cloud, note):  # noqa: F811
    """The lab after `ray up` of the shipped file."""
    laptop = lab.hosts["laptop"]
    (laptop.disk / "root" / Path(CONFIG).name).write_text(yaml.safe_dump(shipped(**cloud.ask(MADE))))
    on(lab, "ray get-auth-token --generate")
    on(lab, f"cd {ROOT} && ray up --yes {CONFIG}")
    note("`ray up` is back")
    return cloud


def shipped(*, subnet: str, group: str) -> dict:
    """The shipped file with what is replaced."""
    config = yaml.safe_load((ROOT / "cluster/gpu.yaml").read_text())
    del config["docker"]
    config["provider"]["use_internal_ips"] = True
    config["auth"]["ssh_user"] = "root"
    config["idle_timeout_minutes"] = 0.5
    for kind in config["available_node_types"].values():
        kind["node_config"] |= {"SubnetIds": [subnet], "SecurityGroupIds": [group]}
    config["max_workers"] = config["available_node_types"]["worker"]["max_workers"] = WORKERS
    for part in ("setup_commands", "head_setup_commands"):
        config[part] = [line for line in config[part] if "pip install" not in line]
    for kind in ("head", "worker"):
        config[f"{kind}_start_ray_commands"][-1] += " --object-store-memory=200000000"
    return config


def on(lab, line: str, **options):
    """Run a line on the laptop, as somebody who has moto's keys."""
    boto = lab.folder / "boto"
    return lab.hosts["laptop"].run(line, PYTHONPATH=f"{ROOT}:{boto}", timeout=900, **SETTINGS, **options)


def sources(cloud) -> set[str]:
    """From where the groups of all instances let in."""
    return let_in(cloud, {group for each in cloud.instances() for group in each["groups"]})


def let_in(cloud, groups) -> set[str]:
    return {source for sources in cloud.ask(RULES.format(groups=sorted(set(groups)))).values() for source in sources}


def test_ray_s_own_group_is_open_to_the_world_so_the_file_names_one(cluster):
    said = on(cluster.lab, f"python -c '{PREPARED}'").stdout
    assert let_in(cluster, json.loads(said.splitlines()[-1])) & WORLD
    assert cluster.counts() == {"head": 1}
    assert sources(cluster) == {f"{LAPTOP}/32"}


def interruptible(cloud, trains, rows):
    """A worker whose trial has reported some times, and will some more; and the trial."""
    for each in cloud.instances("worker"):
        number = trains.get(each["address"])
        if number is not None and 5 <= sum(row["trial"] == number for row in rows) <= REPORTS // 2:
            return each, number
    return None


def test_a_search_has_spot_workers_come_outlives_one_and_lets_them_go(cluster, note):  # noqa: F811
    lab, laptop = cluster.lab, cluster.lab.hosts["laptop"]
    (head,) = cluster.instances("head")
    (cluster.host(head).disk / "root/space.yaml").write_text(yaml.safe_dump(SPACE))
    search = f'gantune search space.yaml --address auto --runs "{RUNS}" --set resources.gpus_per_trial=1'
    log = lab.folder / "search.log"
    settings = {"PYTHONPATH": f"{ROOT}:{lab.folder / 'boto'}", **SETTINGS}
    with log.open("wb") as stream:
        line = f"cd {ROOT} && ray exec {CONFIG} '{search}'"
        process = subprocess.Popen(laptop.command(line, **settings), stdout=stream, stderr=subprocess.STDOUT)
    feed = Feed(laptop, f"python -uc '{ROWS}'", **settings)

    def trains() -> dict[str, int]:
        """The trials that have reported and go on, by the address where they last did."""
        last = {row["trial"]: row for row in feed.latest or ()}
        return {row["place"].split()[0]: number for number, row in last.items() if row["state"] == "running"}

    def until(condition, what: str):
        found = wait(lambda: process.poll() is not None or condition(), what, 1200)
        assert process.poll() is None, log.read_text()
        return found

    until(lambda: len(cluster.instances("worker")) == WORKERS, "four workers")
    note("four spot workers run")
    assert all(each["spot"] for each in cluster.instances("worker"))
    until(lambda: len(trains()) == WORKERS, "four trials train")
    note("four trials train")
    assert sources(cluster) == {f"{LAPTOP}/32"}
    taken, number = until(lambda: interruptible(cluster, trains(), feed.latest), "one has its fifth report")
    cluster.terminate(taken)
    note(f"the spot instance of #{number} is taken away in mid-run")
    until(lambda: len({each["id"] for each in cluster.instances("worker")} - {taken["id"]}) == WORKERS, "another comes")
    note("another runs in its place")

    assert process.wait(timeout=1800) == 0, log.read_text()
    note("the search has ended")
    assert f"the machine of #{number} was lost" in log.read_text()
    # one that had begun anew would have sent all of its checkpoints again
    assert cluster.requests().count(f"PUT /{BUCKET}/runs/lab/trials/{number:04d}/latest.safetensors") <= REPORTS + 1
    wait(lambda: sum(row["state"] == "finished" for row in feed.latest) == TRIALS, "all rows are read")
    rows = feed.latest
    assert sorted(row["trial"] for row in rows if row["state"] != "running") == list(range(TRIALS))
    assert len({(row["trial"], row["seen"]) for row in rows}) == len(rows)
    (best,) = [line for line in on(lab, f'gantune best "{RUN}"').stdout.splitlines() if "trials" in line][:1]
    assert f"{TRIALS} trials" in best

    wait(lambda: cluster.counts() == {"head": 1}, "the workers go")
    note("the idle workers are gone")
    on(lab, f"cd {ROOT} && ray down --yes {CONFIG}")
    wait(lambda: not cluster.instances() and not cluster.instances(state="pending"), "`ray down` leaves nothing")
    note("`ray down` has left no instance")
