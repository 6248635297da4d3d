"""The model hub as a source. `huggingface_hub` says what there is and opens the connections, so proxies, tokens and
mirrors are as its users know them: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, HTTPS_PROXY.

The token is shown to the hub alone: not to the storage that it sends us to, and not to `store.mirrors`.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

from gemstead.catalog import sources
from gemstead.catalog.sources import Want
from gemstead.operate.store.place import Place
from gemstead.operate.store.source import CONNECT_S, READ_S, Found, Listing
from gemstead.operate.store.trouble import ELSE, Passing, StoreTrouble

REACH_S = 4.0  # to find the hub at all; without a network we want to know soon
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_PASSING = (408, 429, 500, 502, 503, 504)


class HubSource:
    """One repository at one revision."""

    def __init__(self, want: Want, place: Place) -> None:
        self.want, self.place = want, place
        self.repo, self.revision = want.address.place, want.address.revision or "main"
        self.endpoints = [place.hub.endpoint, *(mirror.rstrip("/") for mirror in place.mirrors)]
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    @property
    def endpoint(self) -> str:
        return self.endpoints[0]

    @property
    def token(self) -> str | bool | None:
        """What the hub client takes for a token; None: that of `hf auth login`, if any; False: none at all."""
        return self.place.hub.token if self.endpoint == self.place.hub.endpoint else False

    def listing(self) -> Listing:
        failure: Exception | None = None
        for _ in range(len(self.endpoints)):
            try:
                self._reach()
                with self._said():
                    return self._listed()
            except Passing as passing:
                failure = passing.last or passing
            except StoreTrouble as trouble:
                if trouble.kind not in ("offline", "failed", "busy"):
                    raise
                failure = failure or trouble
            self.endpoints.append(self.endpoints.pop(0))  # the next mirror's turn
        assert failure is not None
        raise failure

    def read(self, file: Found, begin: int, end: int) -> Iterator[bytes]:
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import get_session

        url = f"{self.endpoint}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(file.path)}"
        headers = build_hf_headers(token=self.token, library_name="gemstead")
        headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        import httpx2

        timeout = httpx2.Timeout(READ_S, connect=CONNECT_S)
        try:
            with get_session().stream(
                "GET", url, headers=headers, follow_redirects=True, timeout=timeout
            ) as reply:
                if reply.status_code not in (200, 206):
                    self._refused(reply, file.path)
                yield from ranged(reply.iter_raw(), reply.status_code, begin, end)
        except httpx2.HTTPError as error:
            why = f"fetching {self.repo}/{file.path} from {self.endpoint} broke off ({type(error).__name__})"
            last = StoreTrouble("failed", f"{why}; run it again, it goes on where it stopped{ELSE}")
            raise Passing(why, last=last) from None

    def _listed(self) -> Listing:
        if self.want.files:
            return self._listed_files()
        import huggingface_hub

        api = huggingface_hub.HfApi(endpoint=self.endpoint, token=self.token, library_name="gemstead")
        info = api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=READ_S)
        if not info.sha or info.siblings is None:
            raise StoreTrouble(
                "failed", f"{self.endpoint} does not answer like a model hub; check HF_ENDPOINT"
            )
        self.revision = info.sha
        files = tuple(
            Found(
                one.rfilename,
                int(one.size or 0),
                sha256=one.lfs.sha256 if one.lfs else "",
                git_sha1="" if one.lfs else (one.blob_id or ""),
                identity=one.lfs.sha256 if one.lfs else (one.blob_id or ""),
            )
            for one in info.siblings
        )
        return Listing(info.sha, files, _licence(info), bool(info.gated))

    def _listed_files(self) -> Listing:
        """What is known of single files. Nothing is asked where the catalogue knows commit, size and sum."""
        files = []
        for known in self.want.files:
            if known.sha256 and known.bytes and _COMMIT.match(self.revision):
                files.append(Found(known.path, known.bytes, known.sha256, identity=known.sha256))
            else:
                files.append(self._asked(known.path, known.sha256))
        return Listing(self.revision, tuple(files), self.want.licence)

    def _asked(self, path: str, sha256: str) -> Found:
        import huggingface_hub

        url = huggingface_hub.hf_hub_url(self.repo, path, revision=self.revision, endpoint=self.endpoint)
        seen = huggingface_hub.get_hf_file_metadata(
            url, token=self.token, endpoint=self.endpoint, library_name="gemstead", timeout=CONNECT_S
        )
        if not seen.etag or not seen.commit_hash or seen.size is None:
            raise StoreTrouble(
                "failed", f"{self.endpoint} does not answer like a model hub; check HF_ENDPOINT"
            )
        self.revision = seen.commit_hash
        lfs = len(seen.etag) == 64
        return Found(
            path,
            seen.size,
            sha256=sha256 or (seen.etag if lfs else ""),
            git_sha1=seen.etag if len(seen.etag) == 40 else "",
            identity=seen.etag,
        )

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What the hub client raises, as a sentence."""
        import httpx2
        from huggingface_hub import errors

        where = self.endpoint
        try:
            yield
        except errors.GatedRepoError:
            raise StoreTrouble("gated", self._gated()) from None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise StoreTrouble("missing", self._missing()) from None
        except errors.RemoteEntryNotFoundError:
            names = ", ".join(file.path for file in self.want.files)
            raise StoreTrouble("missing", f"{self.repo} has no file {names} on {where}{ELSE}") from None
        except errors.HfHubHTTPError as error:
            self._status(error.response.status_code, error.response.headers, self.repo)
        except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
            why = (
                f"{where} could not be asked for {self.repo} ({type(error).__name__}); try again later{ELSE}"
            )
            raise Passing(why, last=StoreTrouble("failed", why)) from None

    def _refused(self, reply: Any, path: str) -> None:
        code = reply.headers.get("X-Error-Code", "")
        if code == "GatedRepo":
            raise StoreTrouble("gated", self._gated())
        if code in ("RepoNotFound", "RevisionNotFound"):
            raise StoreTrouble("missing", self._missing())
        self._status(reply.status_code, reply.headers, f"{self.repo}/{path}")

    def _status(self, status: int, headers: Any, what: str) -> None:
        """Raise what a status means."""
        if status in (401, 403):
            raise StoreTrouble("gated", self._gated())
        if status in (404, 416):
            raise StoreTrouble("missing", f"{what} is not on {self.endpoint}{ELSE}")
        if status == 429:
            why = f"{self.endpoint} turns us away for asking too often (429); wait some minutes, or set HF_TOKEN"
            raise Passing(why, _seconds(headers.get("Retry-After")), StoreTrouble("busy", why))
        why = f"{self.endpoint} answered {status} for {what}; try again later{ELSE}"
        if status in _PASSING:
            raise Passing(why, _seconds(headers.get("Retry-After")), StoreTrouble("failed", why))
        raise StoreTrouble("failed", why)

    def _gated(self) -> str:
        page = f"{self.endpoint}/{self.repo}"
        facts = sources.facts_of(self.want.address)
        open_ = (
            f" (Google publishes {facts.title} under {facts.licence} without a gate: look whether a proxy or a mirror "
            "stands between)"
            if facts and self.repo.startswith("google/")
            else ""
        )
        if self.token:
            return (
                f"the token in HF_TOKEN may not read {self.repo}: accept its terms at {page} with the account of the "
                f"token, and give the token the right to read gated repositories, or use another token{open_}"
            )
        return f"{self.repo} asks who you are: accept its terms at {page}, then set HF_TOKEN to a token of yours{open_}"

    def _missing(self) -> str:
        at = "" if self.revision == "main" else f" at {self.revision[:12]}"
        near = sources.near(self.repo)
        hint = f" Did you mean {near}?" if near else ""
        return f"{self.endpoint} has no {self.repo}{at}, or it is private: then set HF_TOKEN.{hint}{ELSE}"

    def _reach(self) -> None:
        """Whether anything answers at the hub's address, within `REACH_S`, name look-up included."""
        parts = urlsplit(self.endpoint)
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
            raise StoreTrouble("offline", f"{self.endpoint} cannot be reached ({failure[0]}){ELSE}")


def ranged(pieces: Iterator[bytes], status: int, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of [begin, end) of an answer, whether the server heeded the range (206) or sent all (200)."""
    skip = begin if status == 200 else 0
    left = end - begin
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        piece, skip = piece[skip:][:left], 0
        left -= len(piece)
        yield piece
        if left <= 0:
            return


def _licence(info: Any) -> str:
    card = info.card_data
    said = card.get("license") if card is not None else None
    if isinstance(said, str) and said:
        return said
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return tags[0] if tags else ""


def _seconds(said: str | None) -> float:
    try:
        return min(60.0, max(0.0, float(said or 0)))
    except ValueError:
        return 0.0
