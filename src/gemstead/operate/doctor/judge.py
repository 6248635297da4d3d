"""What was seen, judged: one finding for each thing, well or not, with what was seen and what to do.

Every rule is a function of values and says where its bound comes from. What could not be seen is said to be unknown;
it is never taken for well. Cards have their own file (`judge_cards`).
"""

from __future__ import annotations

from collections.abc import Iterator

from gemstead.catalog.catalogue import Catalogue, built_in
from gemstead.operate.doctor.finding import LEVELS, Finding
from gemstead.operate.doctor.judge_cards import cards
from gemstead.operate.doctor.judge_engines import engines
from gemstead.operate.doctor.seen import Certificate, Seen

GIB = 1 << 30
SHM = "/dev/shm"  # noqa: S108
LARGEST_BYTES = 62e9  # 31B in 16 bits
FAST_DISK = 3e9  # bytes a second: the largest checkpoint in 20 s
SLOW_DISK = 0.5e9  # the same in two minutes: a cloud's smallest SSD
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.gcsfuse", "fuse.s3fs", "ceph", "9p")
LEAST_SHARED = GIB  # NCCL and vLLM's workers pass messages there; Docker's own default is 64 MiB
LEAST_MEMORY = 4 * GIB  # gateway, and the smallest model on the CPU
CLOCK_WARNS_S, CLOCK_BREAKS_S = 30.0, 300.0  # tokens and certificates are checked within minutes
DAY_S = 86_400.0
CERTIFICATE_WARNS_S = 30 * DAY_S


def judge(seen: Seen, catalogue: Catalogue | None = None) -> list[Finding]:
    """Every finding, the worst first; `catalogue` with the user's own facts, the built-in one when None."""
    known = catalogue or built_in()
    findings = [
        *cards(seen, known),
        *engines(seen, known),
        *_memory(seen),
        *_shared_memory(seen),
        *_disk(seen),
        *_containers(seen),
        *_ports(seen),
        *_hub(seen),
        *_clock(seen),
        *(one for certificate in seen.certificates for one in _certificate(certificate, seen.now)),
    ]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _memory(seen: Seen) -> Iterator[Finding]:
    evidence = f"{_gib(seen.memory)} in all, {_gib(seen.memory_free)} free, {seen.cpus} CPUs"
    if seen.memory < LEAST_MEMORY:
        yield Finding(
            "memory",
            "warning",
            "little memory",
            evidence,
            "the smallest model needs 4 GiB: add memory, or raise the container's limit",
        )
    elif seen.memory_free < seen.memory // 20:
        yield Finding(
            "memory",
            "warning",
            "almost all memory is in use",
            evidence,
            "stop what uses it: `ps aux --sort=-rss | head`",
        )
    else:
        yield Finding("memory", "ok", "memory", evidence)


def _shared_memory(seen: Seen) -> Iterator[Finding]:
    if seen.shared_memory is None:
        if seen.os == "linux":
            yield Finding(
                "shared memory",
                "unknown",
                f"{SHM} cannot be seen",
                "it is not mounted",
                f"mount it: `mount -t tmpfs shm {SHM}`",
            )
        return
    evidence = f"{SHM} holds {_gib(seen.shared_memory)}"
    if seen.shared_memory >= LEAST_SHARED:
        yield Finding("shared memory", "ok", "shared memory", evidence)
    elif seen.gpus:
        level = "problem" if len(seen.cards) > 1 else "warning"
        yield Finding(
            "shared memory",
            level,
            "too little shared memory for an engine on cards",
            evidence,
            "start the container with `--ipc=host` or `--shm-size=8g`; in Kubernetes mount an emptyDir of "
            "medium Memory there",
        )
    else:
        yield Finding(
            "shared memory", "note", "little shared memory, which matters only to engines on cards", evidence
        )


def _disk(seen: Seen) -> Iterator[Finding]:
    disk = seen.disk
    if disk is None:
        return
    where = f"{disk.folder}: {_gib(disk.free)} free" + (f", {disk.kind}" if disk.kind else "")
    if seen.needs > disk.free:
        yield Finding(
            "disk",
            "problem",
            "the models do not fit the disk",
            f"{where}; {_gib(seen.needs)} are to be fetched",
            "free space, or set HF_HOME to a larger disk",
        )
    elif disk.free < 10 * GIB:
        yield Finding(
            "disk",
            "warning",
            "little space for models",
            where,
            "Gemma 4 takes 3 to 63 GB a checkpoint: free space, or set HF_HOME to a larger disk",
        )
    else:
        yield Finding("disk", "ok", "space for models", where)
    if disk.read_bytes_s is None:
        return
    loads_s = LARGEST_BYTES / disk.read_bytes_s
    speed = (
        f"{disk.read_bytes_s / 1e9:.1f} GB/s read; 31B in 16 bits (62 GB) loads in {loads_s:.0f} s at best"
    )
    if disk.read_bytes_s >= FAST_DISK:
        yield Finding("disk speed", "ok", "fast disk", speed)
    elif disk.read_bytes_s >= SLOW_DISK and disk.kind not in NETWORKED:
        yield Finding(
            "disk speed",
            "note",
            "engines start slowly from this disk",
            speed,
            "for fast starts keep models on local NVMe (above 3 GB/s)",
        )
    else:
        remedy = (
            "copy the models to a local NVMe disk"
            if disk.kind in NETWORKED
            else "keep models on NVMe (above 3 GB/s)"
        )
        yield Finding(
            "disk speed",
            "warning" if seen.gpus else "note",
            "a slow disk: large models take minutes to load",
            speed,
            f"{remedy}; vLLM: `--safetensors-load-strategy prefetch`",
        )


def _containers(seen: Seen) -> Iterator[Finding]:
    if not seen.runtimes:
        yield Finding(
            "containers",
            "note",
            "no Docker or Podman",
            "neither is installed",
            "none is needed: engines can run as processes",
        )
    for runtime in seen.runtimes:
        if not runtime.answers:
            yield Finding(
                "containers",
                "warning",
                f"{runtime.name} does not answer",
                runtime.said or "no answer",
                f"start it, or let this user use it: `sudo usermod -aG {runtime.name} $USER`",
            )
        elif seen.gpus and not runtime.gpus:
            yield Finding(
                "containers",
                "warning",
                f"{runtime.name} cannot hand cards to containers",
                "no nvidia runtime and no nvidia-ctk",
                "install the NVIDIA container toolkit, then `nvidia-ctk runtime configure`",
            )
        else:
            yield Finding(
                "containers",
                "ok",
                runtime.name,
                "it answers" + (" and knows the cards" if runtime.gpus else ""),
            )


def _ports(seen: Seen) -> Iterator[Finding]:
    for port in seen.ports:
        if port.free:
            yield Finding("port", "ok", f"{port.address} is free", "it could be listened on")
        elif port.ours:
            yield Finding("port", "ok", f"{port.address} is in use", "by the service that runs here")
        else:
            yield Finding(
                "port",
                "problem",
                f"{port.address} cannot be used",
                port.said,
                f"stop the program that has it (`ss -ltnp 'sport = :{port.address.rpartition(':')[2]}'`), "
                "or choose another `listen`",
            )


def _hub(seen: Seen) -> Iterator[Finding]:
    hub = seen.hub
    if hub is None:
        return
    if not hub.wanted:
        yield Finding("hub", "note", "models come from files at hand only", "`hub: false` or HF_HUB_OFFLINE")
        return
    if hub.status is None and hub.resolves is None and not hub.said:
        yield Finding("hub", "unknown", "the hub was not asked", hub.endpoint)
        return
    if hub.resolves is False and hub.status is None:  # behind a proxy the name need not resolve here
        yield Finding(
            "dns",
            "warning",
            "the hub's name does not resolve",
            f"{hub.endpoint}: {hub.said}",
            "check /etc/resolv.conf; behind a proxy set HTTPS_PROXY; without a network set `hub: false`, "
            "or HF_ENDPOINT to a mirror",
        )
    elif hub.status is None:
        yield Finding(
            "hub",
            "warning",
            "the hub does not answer",
            f"{hub.endpoint}: {hub.said}",
            "check firewall and HTTPS_PROXY, or set HF_ENDPOINT to a mirror; models at hand are served all the same",
        )
    elif hub.status in (401, 403):
        yield Finding(
            "hub",
            "warning",
            "the hub turns us away",
            f"{hub.endpoint}: HTTP {hub.status}",
            "set HF_TOKEN to a token that may read the model"
            if not hub.token
            else "HF_TOKEN is wrong or may not read the model",
        )
    elif hub.status >= 400:
        yield Finding(
            "hub",
            "warning",
            "the hub answers with an error",
            f"{hub.endpoint}: HTTP {hub.status}",
            "try again later, or set HF_ENDPOINT to a mirror",
        )
    else:
        yield Finding(
            "hub",
            "ok",
            "the hub answers",
            f"{hub.endpoint}: HTTP {hub.status} in {hub.seconds or 0:.1f} s; "
            + ("with HF_TOKEN" if hub.token else "without a token, which the Gemma 4 models do not ask for"),
        )


def _clock(seen: Seen) -> Iterator[Finding]:
    hub = seen.hub
    if hub and hub.date is not None and hub.asked_at is not None:
        off = hub.asked_at - hub.date
        evidence = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} {hub.endpoint}"
        if abs(off) > CLOCK_WARNS_S:
            level = "problem" if abs(off) > CLOCK_BREAKS_S else "warning"
            yield Finding(
                "clock",
                level,
                "the clock is wrong: tokens and certificates will be refused",
                evidence,
                "start time synchronisation: `timedatectl set-ntp true`, or chrony",
            )
            return
        yield Finding("clock", "ok", "the clock is right", f"within {CLOCK_WARNS_S:.0f} s of {hub.endpoint}")
        return
    if seen.clock_synchronised is None:
        yield Finding(
            "clock",
            "unknown",
            "the clock could not be compared",
            "no timedatectl, and the hub was not reached",
        )
    elif seen.clock_synchronised:
        yield Finding("clock", "ok", "the clock is synchronised", "timedatectl says so")
    else:
        yield Finding(
            "clock",
            "warning",
            "the clock is not synchronised",
            "timedatectl says so",
            "`timedatectl set-ntp true`, or chrony",
        )


def _certificate(certificate: Certificate, now: float) -> Iterator[Finding]:
    if certificate.until is None:
        yield Finding(
            "certificate",
            "problem",
            f"{certificate.path} cannot be used",
            certificate.said,
            "name a PEM file in `gateway.tls.certificate`",
        )
        return
    days = (certificate.until - now) / DAY_S
    if days < 0:
        yield Finding(
            "certificate",
            "problem",
            f"{certificate.path} has expired",
            f"{-days:.0f} days ago",
            "renew it; the running service takes the new file by itself",
        )
    elif certificate.until - now < CERTIFICATE_WARNS_S:
        yield Finding(
            "certificate",
            "warning",
            f"{certificate.path} expires soon",
            f"in {days:.0f} days",
            "renew it; the running service takes the new file by itself",
        )
    else:
        yield Finding("certificate", "ok", certificate.path, f"valid for {days:.0f} days")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 2 else f"{size / (1 << 20):.0f} MiB"
