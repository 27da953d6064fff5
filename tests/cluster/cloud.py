"""A cloud in the lab: moto's EC2 and S3 on a host of its own, and a host for every instance that it reports running.

Nothing of it is Amazon's: only the lab's hosts reach it, and they reach nothing else.
"""

import collections
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from .hosts import Host, Lab

MOTO = shutil.which("moto_server")
ADDRESS, PORT = "10.77.0.2", 5000
NETWORK, SUBNET = "10.77.0.0/16", "10.77.0.0/24"  # of which EC2 keeps the first three addresses to itself
REGION, ZONE = "us-west-2", "us-west-2a"
SETTINGS = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{PORT}",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ACCESS_KEY_ID": "AKIDofthislab",
    "AWS_SECRET_ACCESS_KEY": "secretofthislab",
}
# boto3 and what it needs. The rest of moto's environment would hide what gantune is tested with.
BOTO = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3")

# Of the instances that a request asks for EC2 starts as many as it can, and moto as few.
SERVER = f"""
from moto.ec2.responses.instances import InstanceResponse
from moto.server import main
given = InstanceResponse._get_param
def most(self, name, *rest, **more):
    return given(self, "MaxCount" if name == "MinCount" else name, *rest, **more)
InstanceResponse._get_param = most
main(["-H", "{ADDRESS}", "-p", "{PORT}"])
"""
INSTANCES = """
import json, time, boto3
ec2 = boto3.client("ec2")
while True:
    found = [each for some in ec2.describe_instances()["Reservations"] for each in some["Instances"]]
    keys = {key["KeyName"]: key["PublicKey"] for key in ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]}
    print(json.dumps([{
        "id": each["InstanceId"],
        "state": each["State"]["Name"],
        "address": each.get("PrivateIpAddress", ""),
        "key": keys.get(each.get("KeyName"), ""),
        "spot": each.get("InstanceLifecycle") == "spot",
        "groups": [group["GroupId"] for group in each["SecurityGroups"]],
        "kind": {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}.get("ray-user-node-type", ""),
    } for each in found]), flush=True)
    time.sleep(1)
"""


class Feed:
    """A program on a host that prints a line of JSON now and then; `latest` is what the last one said.

    heard: told every one, in a thread that lives as long as the program.
    """

    def __init__(self, host: Host, line: str, heard: Callable = lambda said: None, **environment: str) -> None:
        self.latest = None
        self.failure: BaseException | None = None
        self._process = subprocess.Popen(host.command(line, **environment), stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._thread.start()

    def _listen(self, heard: Callable) -> None:
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                heard(said)
                self.latest = said
        except BaseException as failure:
            self.failure = failure
            raise

    def close(self) -> None:
        """Wait for its end, which is that of its host."""
        self._process.wait()
        self._thread.join()


class Cloud:
    """Its instances become hosts of the lab, and those that are terminated lose their power.

    bashrc: what the image of every instance has in it.
    """

    def __init__(self, lab: Lab, bashrc: str) -> None:
        self.lab = lab
        self._bashrc = bashrc
        self._python = Path(MOTO).with_name("python")
        self._of: dict[str, Host] = {}  # by instance
        self._ended: set[str] = set()
        self._host = lab.host("cloud", ADDRESS)
        with (lab.folder / "moto.log").open("wb") as log:
            serve = self._host.command(f"exec {self._python} -c '{SERVER}'", **SETTINGS)
            self._server = subprocess.Popen(serve, stdout=log, stderr=log)
        self._host.run(f"until echo > /dev/tcp/{ADDRESS}/{PORT}; do sleep 0.2; done", timeout=120)
        self._feed = Feed(self._host, f"exec {self._python} -uc '{INSTANCES}'", self._follow, **SETTINGS)

    def ask(self, program: str):
        """What a program prints as JSON that has boto3's `ec2`, `s3` and `iam`."""
        clients = "; ".join(f"{name} = boto3.client('{name}')" for name in ("ec2", "s3", "iam"))
        (self._host.disk / "root/ask.py").write_text(f"import json, boto3\n{clients}\n{program}\n")
        return json.loads(self._host.run(f"{self._python} /root/ask.py", **SETTINGS).stdout or "null")

    def instances(self, kind: str = "", state: str = "running") -> list[dict]:
        """Those in a state, of one of the cluster's kinds or of all."""
        assert self._feed.failure is None, self._feed.failure
        return [each for each in self._feed.latest or () if each["state"] == state and kind in ("", each["kind"])]

    def counts(self) -> dict[str, int]:
        """How many run, by kind."""
        return dict(collections.Counter(each["kind"] for each in self.instances()))

    def host(self, instance: dict) -> Host:
        return self._of[instance["id"]]

    def requests(self) -> str:
        """What the cloud has been asked, a line each."""
        return (self.lab.folder / "moto.log").read_text()

    def terminate(self, instance: dict) -> None:
        """As the spot market does; the host's power goes when it is next looked at."""
        self.ask(f"ec2.terminate_instances(InstanceIds=['{instance['id']}'])")

    def _follow(self, instances: list[dict]) -> None:
        for each in instances:
            name = each["id"]
            if each["state"] == "running" and name not in self._of:
                self._of[name] = host = Host(self.lab, f"i{len(self._of)}", each["address"])
                self.lab.hosts[host.name] = host
                (host.disk / "root/.ssh/authorized_keys").write_text(each["key"] + "\n")  # the pair's alone
                (host.disk / "root/.ssh/id_ed25519").unlink()
                (host.disk / "root/.bashrc").write_text(self._bashrc)
                host.boot()
            elif each["state"] in ("shutting-down", "terminated") and name in self._of and name not in self._ended:
                self._ended.add(name)
                self._of[name].cut_power()

    def close(self) -> None:
        """Switch it off; with the thread that started them its instances end."""
        self._host.end()
        self._server.wait()
        self._feed.close()


def linked_boto(folder: Path) -> Path:
    """A folder for PYTHONPATH with moto's boto3, which goes before this environment's dateutil."""
    (packages,) = Path(MOTO).parent.parent.glob("lib/python*/site-packages")
    folder.mkdir()
    for name in BOTO:
        (folder / name).symlink_to(packages / name)
    return folder
