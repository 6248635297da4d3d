"""Buckets as a source: S3 and what speaks like it (MinIO, R2, Ceph), and Google Cloud Storage, through `obstore`.

It comes with `pip install 'gemstead[s3]'`. Credentials and endpoints are found as elsewhere: AWS_ACCESS_KEY_ID and its
kin, AWS_ENDPOINT_URL for MinIO, instance and workload identities, GOOGLE_APPLICATION_CREDENTIALS. A public bucket
needs none: AWS_NO_SIGN_REQUEST=1, GOOGLE_SKIP_SIGNATURE=1.

A bucket says no SHA-256 of what it holds. `gemstead models export` and `import` leave a manifest beside the files
(`gemstead-models.json`); where it lies, files are held to it; else to the ones of `gemstead.lock`, or their size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from gemstead.catalog import manifest as manifests
from gemstead.catalog.manifest import BadManifest
from gemstead.catalog.sources import Want
from gemstead.operate.store.place import Place
from gemstead.operate.store.source import BLOCK_BYTES, Found, Listing
from gemstead.operate.store.trouble import Passing, StoreTrouble

MANIFEST = "gemstead-manifest.json"
_OPTIONS = {
    "aws_endpoint_url": "endpoint",
    "aws_endpoint_url_s3": "endpoint",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "aws_region": "region",
    "aws_default_region": "region",
}
_GOOGLE = {
    "google_application_credentials": "application_credentials",
    "google_service_account": "service_account",
}


class BucketSource:
    """What lies below a prefix of a bucket, or one object."""

    def __init__(self, want: Want, place: Place) -> None:
        self.where = want.address.text
        try:
            import obstore
        except ImportError:
            raise StoreTrouble(
                "failed",
                f"{self.where} needs the bucket client: pip install 'gemstead[s3]', and run it again",
            ) from None
        self.obstore: Any = obstore
        self.bucket, _, self.prefix = want.address.place.partition("/")
        self.store = self._opened(want.address.scheme, place)

    def listing(self) -> Listing:
        found = []
        try:
            for batch in self.obstore.list(self.store, prefix=self.prefix or None):
                found += [one for one in batch if not one["path"].endswith("/")]
            if not found and self.prefix:
                found = [self.obstore.head(self.store, self.prefix)]
        except Exception as error:
            raise self._said(error) from None
        files = tuple(sorted((self._found(one) for one in found), key=lambda file: file.path))
        said, files = self._held_to(files)
        if said is not None:
            return Listing(said.revision, files, said.licence)
        lines = "".join(f"{file.path} {file.bytes} {file.identity}\n" for file in files)
        return Listing(hashlib.sha256(lines.encode()).hexdigest()[:40], files)

    def read(self, file: Found, begin: int, end: int) -> Iterator[bytes]:
        try:
            reply = self.obstore.get(self.store, self._path(file.path), options={"range": (begin, end)})
            for piece in reply.stream(min_chunk_size=BLOCK_BYTES):
                yield bytes(piece)
        except Exception as error:
            raise self._said(error) from None

    def _opened(self, scheme: str, place: Place) -> Any:
        from obstore.store import GCSStore, S3Store

        client: Any = {"connect_timeout": "10s", "timeout": "3600s"}
        retry: Any = {"max_retries": 2}
        said = {name.lower(): value for name, value in place.environ.items() if value}
        if scheme == "gs":
            google: Any = {option: said[name] for name, option in _GOOGLE.items() if name in said}
            if said.get("google_skip_signature", "").lower() in ("1", "true", "yes"):
                google["skip_signature"] = True
            if emulator := said.get("storage_emulator_host", ""):  # as Google's own clients take it
                google |= {"base_url": emulator, "skip_signature": True}
                client["allow_http"] = emulator.startswith("http://")
            return GCSStore(self.bucket, config=google, client_options=client, retry_config=retry)
        config: Any = {option: said[name] for name, option in _OPTIONS.items() if name in said}
        endpoint = str(config.get("endpoint", ""))
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        if said.get("aws_no_sign_request", "").lower() in ("1", "true", "yes"):
            config["skip_signature"] = True
        return S3Store(self.bucket, config=config, client_options=client, retry_config=retry)

    def _found(self, one: Any) -> Found:
        path = one["path"]
        name = path.removeprefix(self.prefix).lstrip("/") or path.rpartition("/")[2]
        identity = hashlib.sha256(f"{path} {one['size']} {one.get('e_tag') or one['last_modified']}".encode())
        return Found(name, int(one["size"]), identity=identity.hexdigest())

    def _path(self, name: str) -> str:
        if not self.prefix or self.prefix.rpartition("/")[2] == name:
            return self.prefix or name
        return f"{self.prefix}/{name}"

    def _held_to(self, files: tuple[Found, ...]) -> tuple[Any, tuple[Found, ...]]:
        """The manifest that lies there, and its files with their sums; None, and what is there, without one."""
        there = next((file for file in files if file.path == MANIFEST), None)
        if there is None or there.bytes > 16 << 20:
            return None, files
        try:
            said = manifests.read(b"".join(self.read(there, 0, there.bytes)))
        except (BadManifest, json.JSONDecodeError) as error:
            raise StoreTrouble("corrupt", f"{self.where}/{MANIFEST} is {error}") from None
        have = {file.path: file for file in files}
        for file in said.files:
            if file.path not in have or have[file.path].bytes != file.bytes:
                raise StoreTrouble(
                    "corrupt",
                    f"{self.where} lacks {file.path} as its {MANIFEST} has it ({file.bytes} bytes); upload it again",
                )
        held = tuple(Found(f.path, f.bytes, f.sha256, identity=f.sha256) for f in said.files)
        return said, held

    def _said(self, error: Exception) -> Exception:
        """What the bucket client raised, as a sentence."""
        if isinstance(error, StoreTrouble | Passing):
            return error
        kinds = self.obstore.exceptions
        if isinstance(error, FileNotFoundError | kinds.NotFoundError):
            return StoreTrouble(
                "missing", f"{self.where} is not there: look at the bucket's name and the prefix"
            )
        text = str(error).replace("\n", " ")
        if "NoSuchBucket" in text:
            return StoreTrouble(
                "missing", f"there is no bucket {self.bucket}: look at its name and AWS_ENDPOINT_URL"
            )
        denied = isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError) or any(
            word in text
            for word in ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
        )
        if denied:
            return StoreTrouble(
                "gated",
                f"{self.where} may not be read with these credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                "(or GOOGLE_APPLICATION_CREDENTIALS) of an account that may list and get",
            )
        if "metadata" in text.lower() or "credential" in text.lower():
            return StoreTrouble(
                "gated",
                f"no credentials were found for {self.where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_NO_SIGN_REQUEST=1 for a public bucket (Google: GOOGLE_APPLICATION_CREDENTIALS, or "
                "GOOGLE_SKIP_SIGNATURE=1)",
            )
        why = f"{self.where} could not be read ({type(error).__name__}: {text[:160]})"
        return Passing(why, last=StoreTrouble("failed", f"{why}; what came is kept, run it again"))
