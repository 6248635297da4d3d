"""Where a model's files are, as people write it, and what the folder that keeps them is called.

    google/gemma-4-31B-it            a repository of the hub; also hf:, https://huggingface.co/...
    google/gemma-4-31B-it@COMMIT     at a commit, branch or tag
    hf:owner/name/file.gguf          one file of it
    s3://bucket/prefix   gs://bucket/prefix
    oci://registry.example/team/model:tag   also @sha256:...
    ./folder   /models/mine.gguf   file:///models/mine

A bare word (`gemma-4-31b`, `gemma4:e2b`) is no address: `catalog.sources` looks it up. Nothing is opened here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from gemstead.refused import Reason, Refused

SCHEMES = ("hf", "s3", "gs", "oci", "file")
_HUB = re.compile(r"^(?:hf://|hf:|https?://huggingface\.co/|https?://hf\.co/|hf\.co/|huggingface\.co/)")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
_OCI = re.compile(
    r"^(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
_REVISION = re.compile(r"^[\w][\w./-]{0,199}$")
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """One place of model files. `place` is owner/name, bucket/prefix, registry/name or an absolute path."""

    scheme: str  # one of SCHEMES
    place: str
    revision: str = ""  # commit, branch, tag or digest; empty: the newest
    file: str = ""  # one file of it; empty: what belongs to the model

    @property
    def key(self) -> str:
        """The address without revision and file: what the lock file and manifests call it."""
        return (
            f"{self.scheme}:{self.place}"
            if self.scheme in ("hf", "file")
            else f"{self.scheme}://{self.place}"
        )

    @property
    def text(self) -> str:
        """As it can be typed again."""
        file = f"/{self.file}" if self.file else ""
        return f"{self.key}{file}@{self.revision}" if self.revision else f"{self.key}{file}"

    @property
    def folder(self) -> str:
        """The name of the folder that keeps it: the hub client's own name for the hub's, and never one name for two."""
        if self.scheme == "hf":
            return "models--" + self.place.replace("/", "--")
        plain = _PLAIN.sub("-", self.place).strip("-.")[:100]
        return f"{self.scheme}--{plain}--{hashlib.sha256(self.place.encode()).hexdigest()[:8]}"

    def at(self, revision: str) -> Address:
        """The same place at another revision."""
        return replace(self, revision=revision)


def is_address(text: str) -> bool:
    """Whether this is written as a place, and not as a model's name."""
    said = text.strip()
    return bool(
        re.match(r"^(s3|gs|oci|file)://", said)
        or _HUB.match(said)
        or said.startswith(("/", "./", "../", "~"))
        or said in (".", "..")
        or _HUB_NAME.match(said.partition("@")[0])
    )


def parse(text: str) -> Address:
    """The address that a text means.

    Raises:
        Refused: BAD_REQUEST, with how addresses are written.
    """
    said = text.strip()
    if "\x00" in said or len(said) > 4096:
        raise _refused("This is no address of a model.")
    if said.startswith(("s3://", "gs://")):
        return _bucket(said)
    if said.startswith("oci://"):
        return _registry(said)
    if said.startswith("file://"):
        return Address("file", said.removeprefix("file://"))
    if said.startswith(("/", "./", "../", "~")) or said in (".", ".."):
        return Address("file", said)
    if is_address(said):
        return _hub(said)
    raise _refused(f"`{said[:80]}` is no address of a model.")


def of_key(key: str) -> Address:
    """The address of an `Address.key`, whatever characters a path or a prefix has."""
    for scheme in ("s3", "gs", "oci"):
        if key.startswith(f"{scheme}://"):
            return Address(scheme, key.removeprefix(f"{scheme}://"))
    scheme, _, place = key.partition(":")
    if scheme in SCHEMES and place:
        return Address(scheme, place)
    raise _refused(f"`{key[:80]}` is no address of a model.")


def _hub(said: str) -> Address:
    rest = _HUB.sub("", said)
    place, _, revision = rest.partition("@")
    owner, _, more = place.partition("/")
    name, _, file = more.partition("/")
    for word in ("resolve", "blob", "tree"):  # an address copied from the browser
        if file.startswith(f"{word}/"):
            revision, _, file = file.removeprefix(f"{word}/").partition("/")
    if not _HUB_NAME.match(f"{owner}/{name}") or ".." in f"{owner}/{name}":
        raise _refused(f"`{said[:80]}` names no repository of the hub.")
    if revision and (not _REVISION.match(revision) or ".." in revision):
        raise _refused(f"`{revision[:80]}` is no revision.")
    if file and not safe(file):
        raise _refused(f"`{file[:80]}` is no file of a repository.")
    return Address("hf", f"{owner}/{name}", revision, file)


def _bucket(said: str) -> Address:
    scheme, _, place = said.partition("://")
    place = place.strip("/")
    if not re.match(r"^[a-z0-9][a-z0-9._-]{1,221}(/|$)", place):
        raise _refused(f"`{said[:80]}` names no bucket.")
    return Address(scheme, place)


def _registry(said: str) -> Address:
    found = _OCI.match(said.removeprefix("oci://"))
    if not found:
        raise _refused(f"`{said[:80]}` names no artifact of a registry.")
    return Address("oci", f"{found['host']}/{found['name']}", found["digest"] or found["tag"] or "latest")


def safe(path: str) -> bool:
    """Whether a file's name from elsewhere stays inside the folder it is put into."""
    parts = path.split("/")
    printable = all(letter.isprintable() for letter in path)
    return (
        bool(path)
        and printable
        and "\\" not in path
        and len(path) < 1024
        and not {"", ".", ".."} & set(parts)
    )


def _refused(problem: str) -> Refused:
    return Refused(
        Reason.BAD_REQUEST,
        f"{problem} Write a model's name (gemma-4-e2b), owner/name of the hub, s3://bucket/prefix, gs://bucket/prefix, "
        "oci://registry/name:tag, or a path that begins with ./ or /.",
        param="model",
        code="bad_address",
    )
