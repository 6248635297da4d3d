"""`gateway.fetch:` in gemstead.yaml: which media the gateway fetches for callers, and how much of them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from gemstead.spec.part import FilePath, Part, Seconds


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


Host = Annotated[
    str,
    Field(pattern=r"^(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$"),
]
Network = Annotated[str, AfterValidator(_network)]


class FetchSpec(Part):
    """Media named by `http` addresses in requests, with `gateway.media: fetch`."""

    hosts: tuple[Host, ...] = Field(
        (),
        description="Hosts that may be asked: `name`, `*.name` for all below it, `*` for any; `name:8443` for a port "
        "that is not the usual one",
        examples=[("images.example.com", "*.cdn.example.com")],
    )
    networks: tuple[Network, ...] = Field(
        (),
        description="Networks that may be asked though they are not public; all others that are private, loopback, "
        "link-local or reserved never are",
        examples=[("10.20.0.0/16",)],
    )
    plain_http: bool = Field(False, description="Whether `http://` is fetched, too")
    ca: FilePath | None = Field(
        None, description="Certificates of authorities to believe instead of the system's"
    )
    each_mib: int = Field(16, ge=1, le=1024, description="Largest medium")
    total_mib: int = Field(24, ge=1, le=1024, description="All media of one request")
    most: int = Field(16, ge=1, le=1024, description="Media of one request")
    redirects: int = Field(
        3, ge=0, le=10, description="Redirects followed for one medium; each is looked at anew"
    )
    timeout_s: Seconds = Field(20.0, description="For all media of one request")
    concurrent: int = Field(8, ge=1, le=256, description="Calls of one worker that fetch at once")
