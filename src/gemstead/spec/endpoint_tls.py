"""`models[].endpoints[].tls`: mutual TLS to an engine that someone else runs."""

from __future__ import annotations

from pydantic import Field, model_validator

from gemstead.spec.part import FilePath, Part


class EndpointTls(Part):
    """Whom the gateway trusts there, and what it shows. Files are read again when they change."""

    ca: FilePath | None = Field(
        None,
        description="PEM file of the CA that signed the engine's certificate; default: who the system trusts",
    )
    certificate: FilePath | None = Field(
        None, description="PEM file of the gateway's client certificate, for engines that ask for one"
    )
    key: FilePath | None = Field(None, description="PEM file of the client certificate's key")

    @model_validator(mode="after")
    def _whole(self) -> EndpointTls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` go together: give both, or neither")
        if self.ca is None and self.certificate is None:
            raise ValueError("say `ca`, or `certificate` and `key`, or leave `tls` out")
        return self
