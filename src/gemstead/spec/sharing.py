"""What several gateways tell each other, so that each picks as if it saw the others' calls (`traffic.sharing`)."""

from __future__ import annotations

from pydantic import Field

from gemstead.spec.part import Part, SecretRef


class SharingSpec(Part):
    """Several gateways before the same engines tell each other what they have in flight, and which prompts engines have
    seen. Each goes on alone while the server is away. Counts from the next start of the service."""

    store: SecretRef = Field(
        description="Where they meet, as a reference to a URL: `redis://`, `rediss://`, `unix://` or `valkey://`. "
        "Needs `gemstead[shared]`",
        examples=["env:GEMSTEAD_SHARING_URL"],
    )
    secret: SecretRef = Field(
        description="What seals that, as a reference to a text of at least 32 characters; the same for all gateways",
        examples=["env:GEMSTEAD_SHARING_SECRET"],
    )
    heads_kib_s: int = Field(
        64,
        ge=0,
        le=4096,
        description="At most so much a second of prompts' hashes from each worker, 8 bytes for 1 KiB of a prompt "
        "that is new to its engine; 0: only what is in flight",
    )
