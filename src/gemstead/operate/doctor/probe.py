"""Looking at the machine. Every look has its time, none fails, and none changes anything but one file that it removes.

Commands are run by a `Runner` that is handed in, so tests hand in recordings. `root` stands for the file system's root
in tests. The looks that wait (network, disk, commands) run at the same time: the whole takes as long as the slowest.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from gemstead.operate import probe as machine_probe
from gemstead.operate.doctor import read
from gemstead.operate.doctor.certificate import valid_until
from gemstead.operate.doctor.installed import installed
from gemstead.operate.doctor.seen import Certificate, Disk, Gpus, Hub, Port, Runtime, Seen, Xid
from gemstead.operate.hub import Hub as HubSettings

COMMAND_S = 6.0
NETWORK_S = 5.0
DISK_S = 1.0
DISK_BYTES = 256 << 20
LEAST_FREE_FOR_A_TRIAL = 4 << 30
NVIDIA_PCI, AMD_PCI = "0x10de", "0x1002"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said. `code` None: it is not installed, or did not end in time."""

    code: int | None
    out: str
    err: str = ""


Runner = Callable[[Sequence[str], float], Answer]


@dataclass(frozen=True, slots=True)
class Wants:
    """What the file asks of this machine."""

    models: Path  # folder that models are kept in
    needs: int = 0  # bytes of models that are still to be fetched
    listen: tuple[str, ...] = ()  # addresses, "host:port"
    ours: bool = False  # our own service runs, and holds them
    certificates: tuple[str, ...] = ()
    hub: bool = True


def run(argv: Sequence[str], timeout_s: float) -> Answer:
    """Run a command for at most `timeout_s` seconds."""
    path = shutil.which(argv[0])
    if path is None:
        return Answer(None, "", "not installed")
    try:
        done = subprocess.run(  # noqa: S603
            [path, *argv[1:]],
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"no answer in {timeout_s:g} s")
    except OSError as error:
        return Answer(None, "", error.strerror or str(error))
    return Answer(
        done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )


def probe(
    wants: Wants,
    environ: Mapping[str, str],
    runner: Runner = run,
    root: Path = Path("/"),
    quick: bool = False,
) -> Seen:
    """This machine as it is now. `quick` leaves out what takes seconds: disk speed and network."""
    machine = machine_probe.machine(wants.models, root)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="doctor") as pool:
        gpus = pool.submit(_gpus, runner, root)
        links = pool.submit(lambda: read.topology(runner(read.TOPOLOGY, COMMAND_S).out))
        xids = pool.submit(_xids, runner)
        disk = pool.submit(_disk, wants.models, root, quick)
        runtimes = pool.submit(_runtimes, runner)
        hub = pool.submit(_hub, wants, environ, quick)
        clock = pool.submit(_clock, runner)
        engines = pool.submit(installed, runner)
        ports = [_port(address, wants.ours) for address in wants.listen]
        cards, trouble = gpus.result()
        return Seen(
            now=time.time(),
            os=machine.os,
            arch=machine.arch or platform.machine(),
            cpus=machine.cpus,
            memory=machine.memory_bytes,
            memory_free=machine.memory_free_bytes,
            numa_nodes=max(1, len(list((root / "sys/devices/system/node").glob("node[0-9]*")))),
            shared_memory=_size_of(root / "dev/shm"),
            gpus=cards,
            gpu_trouble=trouble,
            topology=links.result(),
            xids=xids.result(),
            disk=disk.result(),
            runtimes=runtimes.result(),
            ports=tuple(ports),
            hub=hub.result(),
            clock_synchronised=clock.result(),
            certificates=tuple(_certificate(path) for path in wants.certificates),
            engines=engines.result(),
            needs=wants.needs,
            container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        )


def _gpus(runner: Runner, root: Path) -> tuple[tuple[Gpus, ...], str]:
    """The cards of every vendor, and why a card that is plugged in is not among them."""
    found, troubles = [], []
    for tool, reader, vendor, pci in (
        (read.NVIDIA, read.nvidia, "NVIDIA", NVIDIA_PCI),
        (read.AMD, read.amd, "AMD", AMD_PCI),
    ):
        answer = runner(tool, COMMAND_S)
        gpus = reader(answer.out) if answer.code == 0 else None
        if gpus and gpus.cards:
            nodes = tuple(replace(card, numa_node=_numa_node(root, card.bus)) for card in gpus.cards)
            found.append(replace(gpus, cards=nodes))
        elif plugged := _plugged(root, pci):
            said = _first_line(answer.err) or _first_line(answer.out) or f"exit code {answer.code}"
            troubles.append(f"{plugged} {vendor} card(s) on the bus; {tool[0]}: {said}")
        elif answer.code not in (0, None):
            troubles.append(f"{tool[0]}: {_first_line(answer.err) or _first_line(answer.out)}")
    return tuple(found), "; ".join(troubles)


def _plugged(root: Path, vendor: str) -> int:
    """Cards of a vendor on the PCI bus, whether or not a driver has them. Class 03 is display, 0302 and 12 compute."""
    count = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        kind, maker = _line(device / "class"), _line(device / "vendor")
        if maker == vendor and (
            kind.startswith(("0x0302", "0x12")) or (vendor == NVIDIA_PCI and kind[:4] == "0x03")
        ):
            count += 1
    return count


def _numa_node(root: Path, bus: str) -> int | None:
    text = _line(root / "sys/bus/pci/devices" / bus / "numa_node") if bus else ""
    return int(text) if text.isdigit() else None  # -1: the firmware does not say


def _xids(runner: Runner) -> tuple[Xid, ...] | None:
    """NVIDIA's errors since the machine started; None when the kernel's log may not be read."""
    for command in (("journalctl", "-k", "-b", "--no-pager", "-q", "-g", "NVRM: Xid"), ("dmesg",)):
        answer = runner(command, COMMAND_S)
        if answer.code == 0:
            return read.xids(answer.out)
        if answer.code == 1 and command[0] == "journalctl" and not answer.err.strip():
            return ()  # journalctl ends with 1 when nothing matches
    return None


def _disk(folder: Path, root: Path, quick: bool) -> Disk:
    free = machine_probe.disk_free(folder)
    place = next((one for one in (folder, *folder.parents) if one.is_dir()), Path("/"))
    speed = None if quick or free < LEAST_FREE_FOR_A_TRIAL else _read_speed(place)
    return Disk(str(folder), free, _file_system(place, root), speed)


def _read_speed(folder: Path) -> float | None:
    """Bytes a second read from the disk itself: a file is written, let go from memory, and read back."""
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".gemstead-doctor-") as file:
            began, written, block = time.monotonic(), 0, os.urandom(1 << 20) * 8
            while written < DISK_BYTES and time.monotonic() - began < DISK_S:
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return _timed_read(Path(file.name), written)
    except OSError:
        return None


def _timed_read(path: Path, size: int) -> float | None:
    import mmap

    flags = os.O_RDONLY | getattr(os, "O_DIRECT", 0)
    try:
        handle = os.open(path, flags)
    except OSError:  # a file system without direct reads
        handle = os.open(path, os.O_RDONLY)
    try:
        buffer = mmap.mmap(-1, 8 << 20)  # aligned, as direct reads want
        began, done = time.monotonic(), 0
        while done < size and time.monotonic() - began < DISK_S:
            count = os.readv(handle, [buffer])
            if not count:
                break
            done += count
        took = time.monotonic() - began
        return done / took if took > 0 and done else None
    finally:
        os.close(handle)


def _file_system(folder: Path, root: Path) -> str:
    """The kind of file system that a folder lies on."""
    try:
        mounts = [line.split() for line in (root / "proc/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    inside = [fields for fields in mounts if len(fields) > 2 and folder.resolve().is_relative_to(fields[1])]
    return max(inside, key=lambda fields: len(fields[1]))[2] if inside else ""


def _runtimes(runner: Runner) -> tuple[Runtime, ...]:
    docker = runner(
        ("docker", "info", "--format", "{{json .Runtimes}} {{json .DiscoveredDevices}}"), COMMAND_S
    )
    podman = runner(("podman", "info", "--format", "{{.Host.Arch}}"), COMMAND_S)
    toolkit = runner(("nvidia-ctk", "--version"), COMMAND_S).code == 0
    found = []
    if docker.err != "not installed":
        gpus = toolkit or "nvidia" in docker.out if docker.code == 0 else None
        found.append(Runtime("docker", docker.code == 0, gpus, _first_line(docker.err)))
    if podman.err != "not installed":
        found.append(Runtime("podman", podman.code == 0, toolkit, _first_line(podman.err)))
    return tuple(found)


def _clock(runner: Runner) -> bool | None:
    answer = runner(("timedatectl", "show", "-p", "NTPSynchronized", "--value"), COMMAND_S)
    return {"yes": True, "no": False}.get(answer.out.strip()) if answer.code == 0 else None


def _hub(wants: Wants, environ: Mapping[str, str], quick: bool) -> Hub:
    """Whether the hub's name resolves, whether it answers, and what time it thinks it is."""
    settings = HubSettings.of(environ)
    hub = Hub(settings.endpoint, wants.hub and not settings.offline, token=bool(settings.token))
    if quick or not hub.wanted:
        return hub
    name = urlsplit(hub.endpoint).hostname or ""
    began = time.time()
    resolves = _resolves(name)
    import httpx2

    try:
        answer = httpx2.get(
            f"{hub.endpoint}/api/models/google/gemma-4-E2B-it", timeout=NETWORK_S, trust_env=True
        )
    except (httpx2.HTTPError, ValueError) as error:
        return replace(
            hub, resolves=resolves, said=str(error) or type(error).__name__, seconds=time.time() - began
        )
    date = None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        date = parsedate_to_datetime(answer.headers["date"]).timestamp()
    now = time.time()
    return replace(
        hub, resolves=resolves, status=answer.status_code, date=date, asked_at=now, seconds=now - began
    )


def _resolves(name: str) -> bool | None:
    """Whether DNS knows a name; None when it did not say in time. The thread that waits is left to end by itself."""
    import queue
    import threading

    said: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            socket.getaddrinfo(name, 443)
            said.put(True)
        except OSError:
            said.put(False)

    threading.Thread(target=ask, daemon=True, name="doctor-dns").start()
    try:
        return said.get(timeout=NETWORK_S)
    except queue.Empty:
        return None


def _port(address: str, ours: bool) -> Port:
    """Whether an address can be listened on, found out by doing so for a moment."""
    host, _, port = address.rpartition(":")
    if port == "0":
        return Port(address, True)
    try:
        family, kind, proto, _, place = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except (OSError, ValueError) as error:
        return Port(address, False, ours, getattr(error, "strerror", None) or str(error))
    return Port(address, True)


def _certificate(path: str) -> Certificate:
    try:
        return Certificate(path, valid_until(Path(path).expanduser().read_text("ascii", "replace")))
    except OSError as error:
        return Certificate(path, None, error.strerror or str(error))
    except ValueError as error:
        return Certificate(path, None, str(error))


def _size_of(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return None


def _line(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _first_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not re.fullmatch(r"[-=+|\s]*", line)), "")
