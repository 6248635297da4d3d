"""What every section of the one file is made of: the strict base, and the kinds of text that several of them take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Secret:
    """Marks fields that hold a reference to a secret, so that all of them can be found (`secrets.references`)."""


SecretRef = Annotated[
    str,
    Field(
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|(aws-sm|gcp-sm):[^\s]+|(vault|k8s):[^\s#]+#[^\s#]+)$",
        description="`env:NAME`, `file:PATH`, `vault:`, `aws-sm:`, `gcp-sm:` or `k8s:`; see docs/secrets.md",
    ),
    Secret(),
]
Listen = Annotated[
    str,
    Field(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]*):\d{1,5}$",
        description="`host:port`; port 0 takes a free one",
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/]+)$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Part(BaseModel):
    """Base of every section: unknown fields are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=True)
