"""A pretend model hub: a real HTTP server on 127.0.0.1 that speaks as much of the hub's language as a download needs,
and that misbehaves when told to: refuses, breaks off, is slow, sends damaged bytes, ignores ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_BYTES = 4096  # larger files are told with a SHA-256, smaller ones with git's name


@dataclass
class PretendHub:
    """A hub and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)  # of its repository
    repo: str = "google/tiny"
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files of other repositories
    commit: str = COMMIT
    branch: str = "main"
    licence: str = "apache-2.0"
    status: int = 200  # of every answer
    error: str = ""  # X-Error-Code
    statuses: list[int] = field(default_factory=list)  # of the next answers with a body
    cut_after: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    damaged: bool = False
    ranges: bool = True  # whether ranges are heeded
    bytes_per_s: int = 0  # of one connection; 0: as fast as it goes
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    @property
    def gets(self) -> list[str]:
        """The ranges of the files' GETs, in the order that they came."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and "/resolve/" in path]

    def repository(self, path: str) -> tuple[str, dict[str, bytes]]:
        """The repository that a path begins with, and its files; its own when none does."""
        name = "/".join(path.strip("/").split("/")[:2])
        return (name, self.others[name]) if name in self.others else (self.repo, self.files)

    def environ(self, home: object, **more: str) -> dict[str, str]:
        """The variables that lead a client here."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), **more}


@contextmanager
def serving(hub: PretendHub) -> Iterator[PretendHub]:
    """The hub at a free port, until the context is left."""
    server = _Server(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


def git_name(content: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, object]:
    """A file as the hub's tree has it."""
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_name(content)}
    if len(content) > LFS_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry


def _handler(hub: PretendHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status = hub.statuses.pop(0) if body and hub.statuses else hub.status
            if status != 200:
                self._refuse(status, hub.error, body)
            elif path.startswith("/api/models/"):
                self._info(path)
            else:
                self._file(path, body)

        def _file(self, path: str, body: bool) -> None:
            repo, files = hub.repository(path)
            for revision in (hub.commit, hub.branch):
                prefix = f"/{repo}/resolve/{revision}/"
                if path.startswith(prefix) and (name := path.removeprefix(prefix)) in files:
                    self._content(files[name], body)
                    return
            self._refuse(404, "EntryNotFound" if path.startswith(f"/{repo}/") else "RepoNotFound", body)

        def _content(self, whole: bytes, body: bool) -> None:
            etag = hashlib.sha256(whole).hexdigest() if len(whole) > LFS_BYTES else git_name(whole)
            begin, _, end = (self.headers.get("Range") or "bytes=0-")[6:].partition("-")
            first, last = int(begin), min(int(end or len(whole)), len(whole) - 1)
            ranged = bool(self.headers.get("Range")) and hub.ranges
            content = whole[::-1] if hub.damaged else whole
            content = content[first : last + 1] if ranged else content
            self.send_response(206 if ranged else 200)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(whole)))
            self.send_header("Accept-Ranges", "bytes")
            if ranged:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body:
                return
            if hub.cut_after:
                content, self.close_connection = content[: hub.cut_after.pop(0)], True
            self._send(content)

        def _send(self, content: bytes) -> None:
            step = max(1, hub.bytes_per_s // 20) if hub.bytes_per_s else len(content) or 1
            try:
                for at in range(0, len(content), step):
                    self.wfile.write(content[at : at + step])
                    if hub.bytes_per_s:
                        time.sleep(0.05)
            except OSError:
                self.close_connection = True

        def _info(self, path: str) -> None:
            rest = path.removeprefix("/api/models/")
            here, files = hub.repository(rest)
            if "/tree/" in rest:
                self._json(200, [_entry(name, content) for name, content in sorted(files.items())], "")
                return
            repo, _, revision = rest.partition("/revision/")
            if repo != here or revision not in ("", hub.commit, hub.branch):
                self._refuse(404, "RevisionNotFound" if repo == here else "RepoNotFound", True)
                return
            siblings = []
            for name, content in sorted(files.items()):
                one = {"rfilename": name, "size": len(content), "blobId": git_name(content)}
                if len(content) > LFS_BYTES:
                    sha256 = hashlib.sha256(content).hexdigest()
                    one["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append(one)
            said = {
                "id": here,
                "modelId": here,
                "sha": hub.commit,
                "private": False,
                "gated": False,
                "tags": [f"license:{hub.licence}"],
                "cardData": {"license": hub.licence},
                "siblings": siblings,
            }
            self._json(200, said, "")

        def _refuse(self, status: int, error: str, body: bool) -> None:
            self._json(status, {"error": error or "no"}, error, body)

        def _json(self, status: int, value: object, error: str, body: bool = True) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            if error:
                self.send_header("X-Error-Code", error)
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if body:
                self.wfile.write(text)

    return Handler
