"""What a machine has, and what is amiss with it for gantune. Nothing is sent beyond this machine, but to --runs."""

import contextlib
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from gantune import __version__
from gantune.data.cache import cache_directory
from gantune.errors import GantuneError
from gantune.storage import Place

State = Literal["ok", "advice", "problem"]
PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "pyarrow")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
GB = 1e9
LOW_MEMORY = 4 * GB
LOW_SHM = 0.3 * GB  # Ray's object store of one search takes 0.2
LOW_DISK = 5 * GB
NO_DISK = 0.5 * GB
# What each extra gives, and a package that tells whether it is installed.
EXTRAS = {
    "cluster": ("aiohttp_cors", "ray's dashboard, jobs and `ray up`"),
    "features": ("timm", "scores by inception, dinov2 and lite0"),
    "hf": ("huggingface_hub", "pushing a generator to the Hugging Face hub"),
    "mlflow": ("mlflow-skinny", "MLflow"),
    "postgres": ("psycopg", "several drivers of one search (--storage)"),
    "wandb": ("wandb", "Weights & Biases"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU and its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Where something is kept: bytes that are free, and why it cannot be written or holds no locks, if so."""

    path: str
    free: int | None = None
    unwritable: str = ""
    lockless: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found. Sizes are bytes; a package that is not installed has no version.

    `driver` is NVIDIA's and `driver_cuda` the newest CUDA that it runs; `gpus` are those that it tells of, `torch_gpus`
    those that torch sees. `ray`: why it does not start; None where it was not tried.
    """

    python: str
    packages: Mapping[str, str | None]
    cpus: int
    memory: int
    shm: int | None
    torch_cuda: str | None = None
    torch_error: str = ""
    torch_gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    driver_cuda: str = ""
    gpus: tuple[Gpu, ...] = ()
    ray: str | None = None
    runs: Disk
    cache: Disk
    loopback: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: how it is, and what to do about it."""

    state: State
    what: str
    found: str
    remedy: str = ""


def look(runs: Path | Place, start_ray: Callable[[], str] | None = None) -> Machine:
    """Look at this machine. `start_ray` tries whether Ray starts, and says why not; None leaves it out."""
    cuda, error, seen = _torch()
    driver, driver_cuda, gpus = _nvidia()
    return Machine(
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        shm=_free(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,
        torch_cuda=cuda,
        torch_error=error,
        torch_gpus=seen,
        driver=driver,
        driver_cuda=driver_cuda,
        gpus=gpus,
        ray=None if start_ray is None else start_ray(),
        runs=_place(runs) if isinstance(runs, Place) else _disk(runs),
        cache=_disk(cache_directory()),
        loopback=_loopback(),
        proxies={name: value for name, value in os.environ.items() if name.lower() in (*PROXIES, "no_proxy")},
        extras={name: _version(package) is not None for name, (package, _) in EXTRAS.items()},
    )


def examine(machine: Machine) -> list[Finding]:
    """Everything that was looked at, in one order."""
    return [
        Finding(state="ok", what="python", found=machine.python),
        Finding(state="ok", what="gantune", found=__version__),
        *_packages(machine),
        _gpu(machine),
        _computer(machine),
        _shm(machine),
        *_ray(machine),
        _kept("runs", machine.runs, "--runs"),
        *_locks(machine.runs),
        _kept("cache", machine.cache, "GANTUNE_CACHE"),
        _network(machine),
        *_extras(machine),
        Finding(
            state="ok",
            what="completion",
            found="of verbs, options and runs, by your shell",
            remedy='in ~/.bashrc: eval "$(gantune completion bash)"; likewise zsh, fish',
        ),
    ]


def _packages(machine: Machine) -> list[Finding]:
    found = []
    for name, version in machine.packages.items():
        if version is None:
            remedy = f"pip install -c constraints.txt {name}"
            found.append(Finding(state="problem", what=name, found="is not installed", remedy=remedy))
        elif name == "torch" and machine.torch_error:
            remedy = "install it again: pip install --force-reinstall -c constraints.txt torch"
            found.append(Finding(state="problem", what=name, found=f"{version} {machine.torch_error}", remedy=remedy))
        else:
            build = f", built for {f'CUDA {machine.torch_cuda}' if machine.torch_cuda else 'CPUs alone'}"
            found.append(Finding(state="ok", what=name, found=f"{version}{build if name == 'torch' else ''}"))
    return found


def _gpu(machine: Machine) -> Finding:
    """Whether torch sees the GPUs that there are, and the usual reasons why not."""
    there = ", ".join(f"{gpu.name} ({gpu.memory / GB:.0f} GB)" for gpu in machine.torch_gpus or machine.gpus)
    driver = f"driver {machine.driver}, which runs CUDA up to {machine.driver_cuda}"
    what = "GPU"
    if machine.torch_gpus:
        if len(machine.torch_gpus) < len(machine.gpus):
            hidden = f"{there}; torch sees {len(machine.torch_gpus)} of {len(machine.gpus)}"
            return Finding(state="advice", what=what, found=hidden, remedy="look at CUDA_VISIBLE_DEVICES")
        return Finding(state="ok", what=what, found=f"{there}; {driver}" if machine.driver else there)
    if not machine.driver and not machine.gpus:
        remedy = "trials train on CPUs; for a GPU, NVIDIA's driver must be installed" * bool(machine.torch_cuda)
        return Finding(state="ok", what=what, found="none, nor a driver", remedy=remedy)
    if not machine.gpus:
        return Finding(
            state="advice", what=what, found=f"none, though there is a {driver}", remedy="look at nvidia-smi"
        )
    if machine.torch_cuda is None:
        remedy = "install a torch for CUDA, as pytorch.org/get-started says for this driver"
        return Finding(state="problem", what=what, found=f"{there}, and a torch for CPUs alone", remedy=remedy)
    if _older(machine.driver_cuda, machine.torch_cuda):
        found = f"{there}; {driver}, and torch needs CUDA {machine.torch_cuda}"
        remedy = "install a newer driver, or a torch for an older CUDA"
        return Finding(state="problem", what=what, found=found, remedy=remedy)
    remedy = "look at CUDA_VISIBLE_DEVICES, at nvidia-smi, and whether the container was given the GPUs"
    return Finding(state="problem", what=what, found=f"{there}; torch sees none of them", remedy=remedy)


def _older(driver: str, needed: str) -> bool:
    """Whether a driver is too old: within one major version any runs any."""
    return bool(driver) and int(driver.partition(".")[0]) < int(needed.partition(".")[0])


def _computer(machine: Machine) -> Finding:
    found = f"{machine.cpus} CPUs, {machine.memory / GB:.1f} GB"
    if machine.memory < LOW_MEMORY:
        remedy = "few trials fit beside each other; resources.cpus_per_trial above 1 lets fewer run at once"
        return Finding(state="advice", what="machine", found=found, remedy=remedy)
    return Finding(state="ok", what="machine", found=found)


def _shm(machine: Machine) -> Finding:
    if machine.shm is None:
        return Finding(state="ok", what="/dev/shm", found="there is none; Ray uses its temporary folder")
    found = f"{machine.shm / GB:.2f} GB free"
    if machine.shm < LOW_SHM:
        remedy = "Ray is slow without it; a container takes --shm-size=2g"
        return Finding(state="advice", what="/dev/shm", found=found, remedy=remedy)
    return Finding(state="ok", what="/dev/shm", found=found)


def _ray(machine: Machine) -> list[Finding]:
    if machine.ray is None:
        return []
    if machine.ray:
        remedy = "searches need it; look at /tmp/ray/session_latest/logs, at /dev/shm and at the network below"
        return [Finding(state="problem", what="Ray", found=f"does not start: {machine.ray}", remedy=remedy)]
    return [Finding(state="ok", what="Ray", found="starts")]


def _kept(what: str, disk: Disk, option: str) -> Finding:
    if disk.unwritable:
        remedy = f"name another place by {option}"
        return Finding(state="problem", what=what, found=f"{disk.path}: {disk.unwritable}", remedy=remedy)
    found = disk.path if disk.free is None else f"{disk.path}: {disk.free / GB:.1f} GB free"
    if disk.free is not None and disk.free < LOW_DISK:
        remedy = f"free some, name another place by {option}, or bound what a run keeps: `keep: {{top: 3, gb: 2}}`"
        return Finding(state="problem" if disk.free < NO_DISK else "advice", what=what, found=found, remedy=remedy)
    return Finding(state="ok", what=what, found=found)


def _locks(disk: Disk) -> list[Finding]:
    if not disk.lockless:
        return []
    remedy = "keep runs on a local disk, on NFS version 4, or at a URI such as s3://bucket/prefix"
    found = f"{disk.path} holds no locks: {disk.lockless}"
    return [Finding(state="problem", what="locks", found=found, remedy=remedy)]


def _network(machine: Machine) -> Finding:
    if machine.loopback:
        remedy = "Ray's processes speak over 127.0.0.1: let a firewall or sandbox pass it"
        return Finding(state="problem", what="network", found=f"loopback fails: {machine.loopback}", remedy=remedy)
    proxies = sorted(name for name in machine.proxies if name.lower() in PROXIES)
    spared = ",".join(value for name, value in machine.proxies.items() if name.lower() == "no_proxy")
    if proxies and "*" not in spared and not {"127.0.0.1", "localhost"} & {*spared.split(",")}:
        remedy = "export NO_PROXY=127.0.0.1,localhost and, on a cluster, its machines' addresses"
        found = f"{', '.join(proxies)} set, and not left out for 127.0.0.1"
        return Finding(state="advice", what="network", found=found, remedy=remedy)
    return Finding(state="ok", what="network", found="loopback answers")


def _extras(machine: Machine) -> list[Finding]:
    return [
        Finding(
            state="ok",
            what=f"[{name}]",
            found=f"{'installed' if there else 'not installed'}: {EXTRAS[name][1]}",
            remedy="" if there else f"pip install -c constraints.txt '.[{name}]'",
        )
        for name, there in machine.extras.items()
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> tuple[str | None, str, tuple[Gpu, ...]]:
    """The CUDA that torch was built for, why it cannot be imported, and the GPUs that it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return None, f"cannot be imported: {error}", ()
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            gpus.append(Gpu(name=found.name, memory=found.total_memory))
    return torch.version.cuda, "", tuple(gpus)


def _nvidia() -> tuple[str, str, tuple[Gpu, ...]]:
    """NVIDIA's driver, the newest CUDA that it runs, and its GPUs; nothing where there is none."""
    try:
        import pynvml
    except ImportError:
        return "", "", ()
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetCudaDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        gpus = (
            Gpu(name=pynvml.nvmlDeviceGetName(handle), memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            for handle in handles
        )
        return pynvml.nvmlSystemGetDriverVersion(), f"{version // 1000}.{version % 1000 // 10}", tuple(gpus)
    except pynvml.NVMLError:
        return "", "", ()


def _memory() -> int:
    """What there is, or what a container's limit leaves."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=0)


def _disk(folder: Path) -> Disk:
    """What a folder has left; where it is not there yet, the one that it would be made in."""
    there = folder.absolute()
    while not there.is_dir() and there != there.parent:
        there = there.parent
    try:
        free = _free(there)
        with tempfile.TemporaryDirectory(dir=there, prefix=".gantune-doctor-") as scratch:
            return Disk(path=str(folder), free=free, lockless=_lockless(Path(scratch)))
    except OSError as error:
        return Disk(path=str(folder), unwritable=f"cannot be written: {error.strerror or error}")


def _lockless(folder: Path) -> str:
    """Why a folder holds no locks: one that is held must be refused to another."""
    try:
        with FileLock(folder / "lock", timeout=1):
            try:
                with FileLock(folder / "lock", timeout=0):
                    return "two hold one lock at once"
            except Timeout:
                return ""
    except (OSError, NotImplementedError, Timeout) as error:
        return str(error) or type(error).__name__


def _place(place: Place) -> Disk:
    try:
        place.folders()
    except (GantuneError, FileNotFoundError) as error:
        return Disk(path=str(place), unwritable=str(error).removeprefix(f"{place}: "))
    return Disk(path=str(place))


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _loopback() -> str:
    """Why this machine cannot speak to itself."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5)
            with socket.create_connection(server.getsockname(), timeout=5):
                server.accept()[0].close()
    except OSError as error:
        return str(error)
    return ""
