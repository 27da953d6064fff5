"""A few hosts on one machine: each with its own network, processes, mounts, name and sshd, joined by a switch.

Nothing of it is seen outside: the switch is a network namespace, too, and all ends with the process that made it.
Hosts see this machine's files read-only; /root is a disk of their own that outlives a power cut, /tmp and /run do not.
"""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

NEEDED = ("unshare", "nsenter", "ip", "ss", "mount", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
OWN = ("/root", "/tmp", "/mnt")  # folders of which each host has its own
BOOT = """
set -e
mount --make-rprivate /
cd {disk}
for own in tmp mnt; do mount -t tmpfs tmpfs $own; done
{binds}
for own in {own}; do mount --rbind $own /$own; done
mount -t tmpfs tmpfs /run && mkdir /run/sshd
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t proc proc /proc
mount --bind {disk}/hosts /etc/hosts
mount -o remount,bind,ro /
hostname {name}
ip link set lo up
exec /usr/sbin/sshd -D -e -f /dev/null -h {disk}/host_key -o PidFile=none -o UsePAM=no -o StrictModes=no \\
    -o MaxStartups=100 -o PasswordAuthentication=no
"""


def missing() -> str:
    """What such a lab lacks on this machine, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces"
    for tool in NEEDED:
        if shutil.which(tool) is None:
            return f"needs {tool}"
    allowed = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True)
    return f"may not make namespaces: {allowed.stderr.decode().strip()}" if allowed.returncode else ""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(until, what: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := until()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return found


class Lab:
    """Hosts that reach each other, and one key that opens them all.

    shown: folders of this machine that hosts see and may write, by the path at which they see them.
    """

    def __init__(self, folder: Path, shown: Mapping[str, Path]) -> None:
        self.folder = folder
        self.shown = dict(shown)
        self.hosts: dict[str, Host] = {}
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=_die_with_parent)
        _wait(lambda: _apart(self._switch.pid), "the switch")
        self.ip("link add lab type bridge")
        self.ip("link set lab up")

    def ip(self, words: str, inside: int | None = None) -> None:
        """The ip command on the switch, or in the network of a process."""
        target = str(inside or self._switch.pid)
        done = subprocess.run(
            ["nsenter", "-t", target, "-n", "ip", *words.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ip {words}: {done.stderr}"

    def host(self, name: str, address: str) -> "Host":
        """A new host, which is switched on."""
        self.hosts[name] = Host(self, name, address)
        self.hosts[name].boot()
        return self.hosts[name]

    def close(self) -> None:
        """Switch everything off."""
        for host in self.hosts.values():
            host.end()
        self._switch.kill()
        self._switch.wait()


class Host:
    """One host; its processes run as root."""

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        self.lab, self.name, self.address = lab, name, address
        self.disk = lab.folder / name
        self._process: subprocess.Popen | None = None
        for own in (*OWN, "/root/.ssh"):
            (self.disk / own[1:]).mkdir(parents=True, mode=0o700)
        (self.disk / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (self.disk / "root/.bashrc").touch()
        shutil.copy(lab.key, self.disk / "root/.ssh/id_ed25519")
        shutil.copy(lab.key.with_suffix(".pub"), self.disk / "root/.ssh/authorized_keys")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.disk / "host_key"], check=True)

    def boot(self) -> None:
        """Switch it on, and wait for its sshd."""
        binds = []
        for seen, real in {**self.lab.shown, str(self.disk): self.disk}.items():
            if seen.startswith(tuple(f"{own}/" for own in OWN)):
                inside = shlex.quote(f".{seen}")
                binds.append(f"mkdir -p {inside} && mount --bind {shlex.quote(str(real))} {inside}")
        last = sorted(OWN, key=lambda own: str(self.disk).startswith(f"{own}/"))  # it hides the disk's own mounts
        own = " ".join(folder[1:] for folder in last)
        script = BOOT.format(disk=shlex.quote(str(self.disk)), name=self.name, binds="\n".join(binds), own=own)
        kinds = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
        with (self.disk / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", *kinds, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        outer = self._process.pid
        _wait(lambda: _apart(outer), self.name)
        self.lab.ip(f"link add to-{self.name} type veth peer name eth0 netns {outer}")
        self.lab.ip(f"link set to-{self.name} master lab up")
        self.lab.ip(f"address add {self.address}/24 dev eth0", inside=outer)
        self.lab.ip("link set eth0 up", inside=outer)
        self._init = _wait(lambda: children(outer), self.name)[0]
        _wait(self._answers, f"sshd of {self.name}; see {self.disk / 'log'}")

    def _answers(self) -> bool:
        return self.run("bash -c 'echo > /dev/tcp/127.0.0.1/22'", check=False).returncode == 0

    def command(self, line: str, **environment: str) -> list[str]:
        """What starts a shell's command line there."""
        variables = {"HOME": "/root", "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}
        settings = [f"{name}={value}" for name, value in {**variables, **environment}.items()]
        enter = ["nsenter", "-t", str(self._init), "-m", "-p", "-n", "-u", "-i", "env", "-i", *settings]
        return [*enter, "bash", "-c", line]

    def run(self, line: str, *, check: bool = True, timeout: float = 300, **environment: str):
        """Run a shell's command line there."""
        done = subprocess.run(self.command(line, **environment), capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{self.name}: {line}\n{done.stdout}\n{done.stderr}"
        return done

    def cut_power(self) -> None:
        """Off at once: no process ends in order, and no other host is told."""
        self.lab.ip(f"link delete to-{self.name}")
        self.end()

    def end(self) -> None:
        """End all of its processes; the first of them takes the others along."""
        if self._process is not None:
            inside = children(self._process.pid)
            self._process.kill()
            self._process.wait()
            _wait(lambda: not any(Path(f"/proc/{child}").exists() for child in inside), f"the end of {self.name}")
            self._process = None


def _apart(pid: int) -> bool:
    """Whether a process has left this machine's network."""
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
