"""Model files from the hub, into the hub's own cache, once.

First the cache is looked at, without importing anything: a file that is there is never asked for again. Then, in
order: is there room, does the hub answer, fetch (resuming what was begun), check. Every way this can fail is one
`HubTrouble` with a sentence that says what to do. The hub client (`huggingface_hub`) does the transfer, so tokens,
mirrors and resume are as its users know them: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE.

Two processes that want the same file: one fetches, the other waits for the lock and finds it in the cache.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from gemstead.catalog.models import GgufFile
from gemstead.operate.probe import disk_free

REACH_S = 4.0  # to find the hub at all; without a network we want to know soon
PART = ".gemstead.part"  # of a file that is being fetched
MARGIN_BYTES = 256 << 20  # left free on the disk
Progress = Callable[[int, int], None]  # bytes done, bytes in all; what it raises ends the transfer


class HubTrouble(Exception):
    """A file cannot be had. `kind` is one of offline, gated, missing, busy, space, corrupt, failed."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models come from and where they are kept."""

    cache: Path
    endpoint: str
    token: str | None
    offline: bool

    @staticmethod
    def of(environ: Mapping[str, str]) -> Hub:
        """As the hub's own variables say."""
        xdg = environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = Path(environ.get("HF_HOME") or f"{xdg}/huggingface").expanduser()
        cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
        return Hub(
            cache=Path(cache).expanduser() if cache else home / "hub",
            endpoint=(environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
            token=environ.get("HF_TOKEN") or None,
            offline=environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"),
        )


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of one revision. `bytes` and `sha256` where they are known beforehand."""

    repo: str
    revision: str
    file: str
    bytes: int = 0
    sha256: str | None = None

    @property
    def where(self) -> str:
        return f"{self.repo}/{self.file}"


def files(gguf: GgufFile) -> tuple[HubFile, HubFile | None]:
    """A catalogue entry's model and, where it has one, projector."""
    model = HubFile(gguf.repo, gguf.revision, gguf.file, gguf.bytes, gguf.sha256)
    if not gguf.projector_file:
        return model, None
    projector = HubFile(
        gguf.repo, gguf.revision, gguf.projector_file, gguf.projector_bytes, gguf.projector_sha256
    )
    return model, projector


def fetch(
    wanted: HubFile | GgufFile,
    *,
    progress: Progress = lambda _done, _total: None,
    offline: bool = False,
    environ: Mapping[str, str] = os.environ,
    free: Callable[[Path], int] = disk_free,
) -> Path:
    """The file's path on this machine, fetched if it is not there yet. Blocks; call it in a thread.

    Raises:
        HubTrouble: it cannot be had; the sentence says why and what to do.
    """
    wanted = files(wanted)[0] if isinstance(wanted, GgufFile) else wanted
    hub = Hub.of(environ)
    if found := cached(wanted, hub.cache):
        return found
    if offline or hub.offline:
        raise HubTrouble(
            "offline", f"{wanted.where} is not in {hub.cache} and fetching is switched off{_ELSE}"
        )
    _check_room(wanted, hub, free)
    _reach(hub)
    return _transfer(wanted, hub, progress)


def cached(wanted: HubFile, cache: Path) -> Path | None:
    """The file in the hub's cache, if it is there whole."""
    repo = cache / ("models--" + wanted.repo.replace("/", "--"))
    revision = wanted.revision
    try:
        revision = (repo / "refs" / revision).read_text("ascii").strip() or revision
    except (OSError, ValueError):
        pass  # a commit is its own name
    path = repo / "snapshots" / revision / wanted.file
    try:
        size = path.stat().st_size
    except OSError:
        return None
    return path if not wanted.bytes or size == wanted.bytes else None


_ELSE = "; give the model's file with `file:`, or try `gemstead serve --demo`"


def _check_room(wanted: HubFile, hub: Hub, free: Callable[[Path], int]) -> None:
    begun = hub.cache / ("models--" + wanted.repo.replace("/", "--")) / "blobs"
    have = max((part.stat().st_size for part in begun.glob(f"{wanted.sha256 or '*'}{PART}")), default=0)
    need, room = wanted.bytes - have + MARGIN_BYTES, free(hub.cache)
    if need > room:
        raise HubTrouble(
            "space",
            f"{wanted.where} needs {_gb(need)} of disk and {hub.cache} has {_gb(room)} free; make room, or set "
            "HF_HOME to a folder on another disk",
        )


def _reach(hub: Hub) -> None:
    """Whether anything answers at the hub's address, within `REACH_S`, name look-up included."""
    parts = urlsplit(hub.endpoint)
    if getproxies().get(parts.scheme):
        return  # the proxy looks names up for us
    port = parts.port or (443 if parts.scheme == "https" else 80)
    failure: list[str] = ["no answer"]

    def knock() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=REACH_S).close()
            failure.clear()
        except OSError as error:
            failure[:] = [(error.strerror or str(error)).lower()]

    knocking = threading.Thread(target=knock, daemon=True)
    knocking.start()
    knocking.join(REACH_S)
    if failure:
        raise HubTrouble("offline", f"{hub.endpoint} cannot be reached ({failure[0]}){_ELSE}")


def _transfer(wanted: HubFile, hub: Hub, progress: Progress) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    from huggingface_hub import errors

    try:
        url = huggingface_hub.hf_hub_url(
            wanted.repo, wanted.file, revision=wanted.revision, endpoint=hub.endpoint
        )
        found = huggingface_hub.get_hf_file_metadata(url, token=hub.token, endpoint=hub.endpoint)
        if not found.etag or not found.commit_hash:
            raise HubTrouble("failed", f"{hub.endpoint} does not answer like a model hub; check HF_ENDPOINT")
        return _into_cache(wanted, hub, found, progress)
    except errors.GatedRepoError:
        raise HubTrouble("gated", _gated(wanted, hub)) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        what = f"{wanted.repo} at {wanted.revision[:12]}"
        why = f"{hub.endpoint} has no {what}, or it is private; set HF_TOKEN{_ELSE}"
        raise HubTrouble("missing", why) from None
    except errors.RemoteEntryNotFoundError:
        raise HubTrouble(
            "missing", f"{wanted.repo} has no file {wanted.file} on {hub.endpoint}{_ELSE}"
        ) from None
    except errors.HfHubHTTPError as error:
        raise _http_trouble(wanted, hub, error.response.status_code) from None
    except OSError as error:  # also LocalEntryNotFoundError and everything that a socket or a disk says
        raise _broken(wanted, hub, error) from None
    except (ValueError, RuntimeError) as error:
        raise _broken(wanted, hub, error) from None


def _into_cache(wanted: HubFile, hub: Hub, found: Any, progress: Progress) -> Path:
    """The file in the hub client's own layout: `blobs/<etag>`, and a link to it from the revision's snapshot.

    The client itself begins anew after an interrupted run (2.4), so the part that is there is kept by us.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._fixes import WeakFileLock
    from huggingface_hub.utils._headers import build_hf_headers

    name = "models--" + wanted.repo.replace("/", "--")
    repo, lock = hub.cache / name, hub.cache / ".locks" / name / f"{found.etag}.lock"
    blob = repo / "blobs" / found.etag
    for folder in (lock.parent, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.exists():
            part = blob.with_name(found.etag + PART)
            # The token is for the hub, not for the storage that it sends us to.
            own = urlsplit(found.location).netloc == urlsplit(hub.endpoint).netloc
            with part.open("ab") as file:
                http_get(
                    found.location,
                    file,
                    resume_size=file.tell(),
                    headers=build_hf_headers(token=(hub.token if own else False), library_name="gemstead"),
                    expected_size=found.size,
                    tqdm_class=_bar(progress, wanted.bytes),
                )
            _verify(wanted, part, found)
            part.replace(blob)
        return _linked(repo, wanted, found.commit_hash, blob)


def _linked(repo: Path, wanted: HubFile, commit: str, blob: Path) -> Path:
    path = repo / "snapshots" / commit / wanted.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if wanted.revision != commit:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / wanted.revision).write_text(commit, "ascii")
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


def _bar(progress: Progress, total: int) -> Any:
    """What the hub client takes for a progress bar: it counts, and tells us."""
    from huggingface_hub.utils.tqdm import tqdm

    class Told(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.done = int(kwargs.get("initial") or 0)
            self.whole = int(kwargs.get("total") or total)
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            progress(self.done, self.whole)

        def update(self, n: float | None = 1) -> bool | None:
            self.done += int(n or 0)
            progress(self.done, self.whole)
            return None

    return Told


def _verify(wanted: HubFile, part: Path, found: Any) -> None:
    """What came, against the catalogue's SHA-256 and size, else the hub's own."""
    expected = wanted.sha256 or (found.etag if len(found.etag) == 64 else None)
    size, whole = part.stat().st_size, wanted.bytes or found.size
    problem = ""
    if whole and size != whole:
        problem = f"{size} bytes instead of {whole}"
    elif expected:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        problem = "" if digest == expected else f"SHA-256 {digest[:12]}… instead of {expected[:12]}…"
    if problem:
        part.unlink(missing_ok=True)
        sentence = f"{wanted.where} came damaged ({problem}) and was deleted; run it again to fetch it anew"
        raise HubTrouble("corrupt", sentence)


def _http_trouble(wanted: HubFile, hub: Hub, status: int) -> HubTrouble:
    if status in (401, 403):
        return HubTrouble("gated", _gated(wanted, hub))
    if status == 404:
        return HubTrouble("missing", f"{wanted.where} is not on {hub.endpoint}{_ELSE}")
    if status == 429:
        why = f"{hub.endpoint} turns us away for asking too often (429); wait some minutes, or set HF_TOKEN"
        return HubTrouble("busy", why)
    return HubTrouble(
        "failed", f"{hub.endpoint} answered {status} for {wanted.where}; try again later{_ELSE}"
    )


def _gated(wanted: HubFile, hub: Hub) -> str:
    page = f"{hub.endpoint}/{wanted.repo}"
    if hub.token:
        return f"the token in HF_TOKEN may not read {wanted.repo}; accept its terms at {page}, or use another token"
    return (
        f"{wanted.repo} asks who you are: accept its terms at {page}, then set HF_TOKEN to a token of yours"
    )


def _broken(wanted: HubFile, hub: Hub, error: BaseException) -> HubTrouble:
    import errno

    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return HubTrouble(
                "space", f"the disk of {hub.cache} is full; make room, or set HF_HOME to another"
            )
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EROFS):
            return HubTrouble("failed", f"{hub.cache} cannot be written; set HF_HOME to a folder that can")
        response = getattr(cause, "response", None)
        if (status := getattr(response, "status_code", None)) is not None:
            return _http_trouble(wanted, hub, int(status))
    return HubTrouble(
        "failed",
        f"fetching {wanted.where} from {hub.endpoint} broke off ({type(error).__name__}); run it again, it goes on "
        f"where it stopped{_ELSE}",
    )


def _gb(size: int) -> str:
    return f"{max(size, 0) / 1e9:.1f} GB"
