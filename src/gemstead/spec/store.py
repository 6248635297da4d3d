"""The `store` section: where model files are kept, and where they come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gemstead.spec.part import FilePath, Part, SecretRef

Mirror = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]


class SourceSpec(Part):
    """A company's own copy: hub repositories that are taken from elsewhere."""

    match: str = Field(
        description="Which repositories, as a pattern", min_length=1, max_length=200, examples=["google/*"]
    )
    source: str = Field(
        description="Where to take them from; `{repo}` is owner/name and `{name}` the name alone",
        min_length=1,
        max_length=1024,
        examples=["s3://models/{repo}", "oci://registry.example/models/{name}:latest", "/mnt/models/{name}"],
    )


class StoreSpec(Part):
    """Where model files are kept, and where they come from."""

    path: FilePath | None = Field(
        None,
        description="Folder of model files, shared by all services of this machine; default: the hub's own cache "
        "(`HF_HUB_CACHE`, `HF_HOME`, or `~/.cache/huggingface/hub`)",
        examples=["/srv/models"],
    )
    sources: tuple[SourceSpec, ...] = Field(
        (),
        description="Hub repositories that are taken from a bucket, registry or folder; the first match counts",
    )
    mirrors: tuple[Mirror, ...] = Field(
        (),
        description="Further addresses that speak the hub's protocol, asked in turn when the hub (`HF_ENDPOINT`) does "
        "not answer; they are never shown HF_TOKEN",
        examples=[["https://hub-mirror.example"]],
    )
    token: SecretRef | None = Field(
        None,
        description="Token for repositories of the hub that ask who you are; default: HF_TOKEN",
        examples=["vault:kv/gemstead/hub#token"],
    )
    offline: bool = Field(False, description="Whether to use only what is in the store, from whatever source")
    concurrency: int = Field(8, ge=1, le=64, description="Ranges of files that are fetched at once")
    min_free_gb: float = Field(
        1.0,
        ge=0,
        le=100_000,
        description="Left free on the store's disk, in gigabytes; a download stops before it",
    )
    verify: Literal["fast", "full", "off"] = Field(
        "fast",
        description="What is looked at when a service starts: sizes, times and inodes (`fast`; sums where those "
        "differ), every file's SHA-256 (`full`), or nothing",
    )
