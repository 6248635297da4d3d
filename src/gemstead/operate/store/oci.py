"""A registry as a source: an OCI artifact whose layers are a model's files, over the distribution protocol.

Understood are the layouts in use, read 2026-11-21: ORAS (a layer's `org.opencontainers.image.title` is its path),
ModelPack (`org.cncf.model.filepath`, uncompressed layers) and `docker model` (layers known by their media type). A
layer's digest is its SHA-256, so nothing has to be taken on trust. Layers that are archives are refused.

A registry's token is asked for as its challenge says; user and password are those of `docker login`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gemstead.catalog.sources import Want
from gemstead.operate.store.hub import ranged
from gemstead.operate.store.place import Place
from gemstead.operate.store.source import CONNECT_S, READ_S, Found, Listing
from gemstead.operate.store.trouble import Passing, StoreTrouble

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"  # Docker's older word for an index
_TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath")
# pkg.go.dev/github.com/docker/model-runner/pkg/distribution/types, read 2026-11-21.
_DOCKER_MODEL = {
    "application/vnd.docker.ai.gguf.v3": "model.gguf",
    "application/vnd.docker.ai.mmproj": "mmproj.gguf",
    "application/vnd.docker.ai.license": "LICENSE",
    "application/vnd.docker.ai.chat.template.jinja": "chat_template.jinja",
}
_ARCHIVE = re.compile(r"[.+](tar|gzip|zstd)\b|\.tar$")
MOST_MANIFEST_BYTES = 4 << 20


class RegistrySource:
    """One artifact."""

    def __init__(self, want: Want, place: Place) -> None:
        import httpx2

        self.where = want.address.text
        self.host, _, self.name = want.address.place.partition("/")
        self.reference = want.address.revision or "latest"
        if re.match(r"^sha256-[0-9a-f]{64}$", self.reference):  # as a revision is called on the shelf
            self.reference = self.reference.replace("-", ":", 1)
        self.place = place
        host = urlsplit(f"//{self.host}").hostname or ""
        scheme = "http" if host in ("localhost", "127.0.0.1", "::1") else "https"
        real = "registry-1.docker.io" if self.host in ("docker.io", "index.docker.io") else self.host
        self.base = f"{scheme}://{real}/v2/{self.name}"
        self.client = httpx2.Client(
            timeout=httpx2.Timeout(READ_S, connect=CONNECT_S), follow_redirects=True, trust_env=True
        )
        self.auth = ""
        self.digests: dict[str, str] = {}

    def listing(self) -> Listing:
        body, digest = self.manifest(self.reference)
        if body.get("mediaType") == _INDEX or "manifests" in body:
            inner = [one for one in body.get("manifests", ()) if one.get("mediaType") in (_MANIFEST, _DOCKER)]
            if len(inner) != 1:
                raise StoreTrouble(
                    "failed", f"{self.where} is an index of {len(inner)} artifacts; name one by @sha256:…"
                )
            body, digest = self.manifest(inner[0]["digest"])
        files = tuple(self._layer(layer) for layer in body.get("layers", ()))
        notes = body.get("annotations") or {}
        licence = str(notes.get("org.opencontainers.image.licenses", ""))
        named = _told_apart(files)
        self.digests = {file.path: f"sha256:{file.sha256}" for file in named}
        return Listing(digest.replace(":", "-"), named, licence)

    def read(self, file: Found, begin: int, end: int) -> Iterator[bytes]:
        import httpx2

        headers = {
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
            **self._authorization(),
        }
        try:
            with self.client.stream(
                "GET", f"{self.base}/blobs/sha256:{file.sha256}", headers=headers
            ) as reply:
                if reply.status_code == 401 and self.auth:
                    self._login(reply.headers.get("WWW-Authenticate", ""))  # the token ran out
                    raise Passing(f"{self.host} wanted a new token")
                if reply.status_code not in (200, 206):
                    self._refused(reply)
                yield from ranged(reply.iter_raw(), reply.status_code, begin, end)
        except httpx2.HTTPError as error:
            raise self._broken(error) from None

    def manifest(self, reference: str) -> tuple[dict[str, Any], str]:
        """What a tag or digest stands for, and its digest: of what came, not of what the registry says came.

        Raises:
            StoreTrouble: it is not there, or may not be read.
            Passing: it could not be read now.
        """
        reply = self._get(
            f"{self.base}/manifests/{reference}", ", ".join((_INDEX, _LIST, _MANIFEST, _DOCKER))
        )
        if len(reply) > MOST_MANIFEST_BYTES:
            raise StoreTrouble("failed", f"{self.where}: the manifest is larger than any artifact's")
        digest = "sha256:" + hashlib.sha256(reply).hexdigest()
        if reference.startswith("sha256:") and reference != digest:
            raise StoreTrouble(
                "corrupt", f"{self.host} gave another manifest for {reference[:19]}… than was asked for"
            )
        try:
            body = json.loads(reply)
            return dict(body), digest
        except (ValueError, TypeError):
            raise StoreTrouble("failed", f"{self.where} is no artifact: {self.host} sent no JSON") from None

    def _get(self, url: str, accept: str) -> bytes:
        import httpx2

        try:
            reply = self.client.get(url, headers={"Accept": accept, **self._authorization()})
            if reply.status_code == 401 and not self.auth:
                self._login(reply.headers.get("WWW-Authenticate", ""))
                reply = self.client.get(url, headers={"Accept": accept, **self._authorization()})
        except httpx2.ConnectError as error:
            raise StoreTrouble("offline", f"{self.host} cannot be reached ({error})") from None
        except httpx2.HTTPError as error:
            raise self._broken(error) from None
        if reply.status_code != 200:
            self._refused(reply)
        return bytes(reply.content)

    def _layer(self, layer: dict[str, Any]) -> Found:
        kind, notes = str(layer.get("mediaType", "")), layer.get("annotations") or {}
        name = next((str(notes[title]) for title in _TITLES if notes.get(title)), _DOCKER_MODEL.get(kind, ""))
        digest = str(layer.get("digest", ""))
        if not re.match(r"^sha256:[0-9a-f]{64}$", digest):
            raise StoreTrouble("failed", f"{self.where} has a layer without a SHA-256 digest")
        if not name or (_ARCHIVE.search(kind) and not name.endswith((".tar", ".gz", ".zst"))):
            raise StoreTrouble(
                "failed",
                f"{self.where} has a layer of type {kind or 'unknown'}, which is no file of a model as it is; push the "
                "files as they are (`oras push`, or ModelPack with raw layers)",
            )
        sha256 = digest.removeprefix("sha256:")
        return Found(name, int(layer.get("size", 0)), sha256, identity=sha256)

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self.auth} if self.auth else {}

    def _login(self, challenge: str) -> None:
        """Do what a 401 asks for: https://distribution.github.io/distribution/spec/auth/token/."""
        basic = _docker_login(self.host, self.place)
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and basic:
            self.auth = f"Basic {basic}"
        if kind.lower() != "bearer":
            return
        said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = said.pop("realm", "")
        if not realm.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            return
        import httpx2

        params = {
            "service": said.get("service", ""),
            "scope": said.get("scope") or f"repository:{self.name}:pull",
        }
        try:
            reply = self.client.get(
                realm, params=params, headers={"Authorization": f"Basic {basic}"} if basic else {}
            )
            token = reply.json() if reply.status_code == 200 else {}
        except (httpx2.HTTPError, ValueError):
            return
        if word := token.get("token") or token.get("access_token"):
            self.auth = f"Bearer {word}"

    def _refused(self, reply: Any) -> None:
        """Raise what a status means."""
        status = reply.status_code
        if status in (401, 403):
            raise StoreTrouble(
                "gated",
                f"{self.host} does not let us read {self.name}: `docker login {self.host}` (or podman) first",
            )
        if status == 404:
            raise StoreTrouble("missing", f"{self.where} is not there: look at the name and the tag")
        why = f"{self.host} answered {status} for {self.name}"
        last = StoreTrouble(
            "busy" if status == 429 else "failed", f"{why}; what came is kept, try again later"
        )
        if status in (408, 429) or status >= 500:
            raise Passing(why, last=last)
        raise last

    def _broken(self, error: Exception) -> Passing:
        why = f"reading {self.where} broke off ({type(error).__name__})"
        return Passing(why, last=StoreTrouble("failed", f"{why}; run it again, it goes on where it stopped"))


def _told_apart(files: tuple[Found, ...]) -> tuple[Found, ...]:
    """Several layers of one type without names of their own (a GGUF in parts) get a number each."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    total = {file.path: sum(other.path == file.path for other in files) for file in files}
    named = []
    for file in files:
        count = seen[file.path] = seen.get(file.path, 0) + 1
        if total[file.path] > 1 and file.path in _DOCKER_MODEL.values():
            stem, _, ending = file.path.rpartition(".")
            path = f"{stem or ending}-{count:05d}-of-{total[file.path]:05d}{'.' + ending if stem else ''}"
            file = replace(file, path=path)
        named.append(file)
    return tuple(named)


def _docker_login(host: str, place: Place) -> str:
    """User and password of `docker login` or `podman login` for a host, as basic authorization; empty: none."""
    home = Path(place.environ.get("HOME") or "~").expanduser()
    folders = [place.environ.get("DOCKER_CONFIG"), str(home / ".docker")]
    files = [Path(folder) / "config.json" for folder in folders if folder]
    files += [Path(said) for said in (place.environ.get("REGISTRY_AUTH_FILE"),) if said]
    runtime = place.environ.get("XDG_RUNTIME_DIR")
    files += [Path(runtime) / "containers" / "auth.json"] if runtime else []
    names = (
        (host, f"https://{host}", "https://index.docker.io/v1/")
        if host == "docker.io"
        else (host, f"https://{host}")
    )
    for file in files:
        try:
            auths = json.loads(file.read_bytes()).get("auths", {})
            word = next((auths[name]["auth"] for name in names if auths.get(name, {}).get("auth")), "")
            if word and b":" in base64.b64decode(word):
                return str(word)
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue
    return ""
