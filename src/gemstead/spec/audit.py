"""`audit:` in gemstead.yaml: how the audit log is signed, how long it is kept, and where it is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gemstead.spec.part import FilePath, Part, Seconds, SecretRef

Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]
SinkName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]


class RetentionSpec(Part):
    """How long records are kept. The first rule that fits counts; a record that none fits is kept for ever."""

    keep_days: int = Field(
        ge=1, le=36_500, description="Deleted after this; a legal hold comes first", examples=[400]
    )
    records: Literal["all", "calls", "acts"] = Field(
        "all", description="Records of calls, of administrative acts, or both"
    )
    tenant: str = Field(
        "*", min_length=1, max_length=128, description="Which tenants, as a pattern", examples=["acme*"]
    )


class SinkSpec(Part):
    """A place where every audit record is sent."""

    name: SinkName = Field(description="What it is called in `gemstead audit ship`", examples=["siem"])
    to: Literal["splunk", "elastic", "syslog", "otlp", "s3"] = Field(
        description="Splunk HEC, Elastic's bulk API, syslog (RFC 5424) over TLS, OTLP logs over HTTP, or an S3 bucket"
    )
    url: Annotated[str, Field(min_length=1, max_length=2048)] = Field(
        description="Base address; for syslog `tls://HOST:6514` (or `tcp://` on loopback), for S3 `s3://BUCKET/PREFIX`",
        examples=["https://splunk.example:8088", "tls://logs.example:6514", "s3://audit/gemstead"],
    )
    form: Literal["ecs", "ocsf"] = Field(
        "ocsf", description="Of each record: Elastic Common Schema, or OCSF 1.8.0"
    )
    token: SecretRef | None = Field(
        None, description="HEC token, Elastic API key, or bearer token for OTLP; for S3 `ACCESS_KEY:SECRET`"
    )
    index: str = Field(
        "", max_length=128, description="Splunk index or Elastic index; Elastic's default: gemstead-audit"
    )
    ca: FilePath | None = Field(None, description="PEM file of the CA that signed its certificate")
    certificate: FilePath | None = Field(None, description="PEM file of our client certificate")
    key: FilePath | None = Field(None, description="PEM file of our client certificate's key")
    endpoint: Url | None = Field(None, description="Address of an S3 service that is not Amazon's")
    region: str = Field("us-east-1", max_length=64, description="S3 region")
    acknowledge: bool = Field(
        True, description="Splunk: wait until the indexer has the records (the token must have it enabled)"
    )
    batch: int = Field(500, ge=1, le=5000, description="Most records sent at once")
    every_s: Seconds = Field(
        1.0, description="Longest time that records wait for more, once the receiver is up to date"
    )
    timeout_s: Seconds = Field(30.0, description="For one answer")

    @model_validator(mode="after")
    def _address_fits(self) -> SinkSpec:
        fits = {"syslog": ("tls://", "tcp://"), "s3": ("s3://",)}.get(self.to, ("https://", "http://"))
        if not self.url.startswith(fits):
            raise ValueError(f"url: {self.to} is reached by {' or '.join(fits)}, not {self.url}")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together")
        return self


class AuditSpec(Part):
    """The audit log: signed, kept, sent elsewhere."""

    checkpoint_s: Seconds = Field(60.0, description="The chain's end is signed this often, if there is news")
    retention: tuple[RetentionSpec, ...] = Field(
        (), description="How long records are kept; default: for ever"
    )
    ship: tuple[SinkSpec, ...] = Field((), description="Where every record is sent")

    @model_validator(mode="after")
    def _names_differ(self) -> AuditSpec:
        names = [sink.name for sink in self.ship]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"ship: {twice} is there twice; each place has a name of its own")
        return self
