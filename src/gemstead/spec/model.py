"""The one file, typed. What each field means is said here once: the reference in docs/ and the JSON Schema
that editors use are generated from these types.

Everything is optional: an empty file, or none, is the embedded default. Unknown fields are refused.
Secrets are references (`env:NAME`, `file:PATH`), resolved by `wiring`, never values. What a field alone
cannot know (two ports that clash, keys off on a public address) is in `checks.py`; what needs the catalogue
(whether a model exists, how long its context is) is in `catalog/check.py`.

Values are taken as written and not guessed at: `"8192"` is text and `8192` a number (`strict`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gemstead.spec.audit import AuditSpec
from gemstead.spec.autoscale import AutoscaleSpec
from gemstead.spec.batch import BatchSpec
from gemstead.spec.deploy import DeploySpec
from gemstead.spec.endpoint_tls import EndpointTls
from gemstead.spec.engines import EngineFields
from gemstead.spec.identity import IdentitySpec
from gemstead.spec.ledger import LedgerSpec
from gemstead.spec.limits import LimitSpec
from gemstead.spec.media import FetchSpec
from gemstead.spec.part import FilePath, Listen, Name, Origin, Part, Seconds, SecretRef
from gemstead.spec.rollout import ModelRolloutSpec, RolloutSpec
from gemstead.spec.secrets import SecretsSpec
from gemstead.spec.speed import EngineSpeed
from gemstead.spec.store import StoreSpec
from gemstead.spec.traffic import RouteSpec, TrafficSpec


class ExternalEndpoint(Part):
    """An engine that someone else runs."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")] = Field(
        description="Base address without `/v1`", examples=["http://10.0.0.5:8000"]
    )
    api_key: SecretRef | None = Field(
        None,
        description="Bearer token that the engine wants, as `env:NAME` or `file:PATH`",
        examples=["env:VLLM_API_KEY"],
    )
    tls: EndpointTls | None = Field(
        None, description="Whom to trust there and which certificate to show; default: who the system trusts"
    )
    discover: Literal["off", "dns"] = Field(
        "off",
        description="`dns`: the host's name stands for many engines, each address one of them, asked for anew "
        "every few seconds (a headless Service of Kubernetes)",
    )
    served_model: str = Field("", description="The name the engine uses, when it is not the model's")
    region: str = Field("", max_length=64, description="Where it is; default: `traffic.region`")
    dialect: Literal[
        "external", "vllm", "sglang", "llamacpp", "ollama", "tgi", "tensorrt_llm", "transformers"
    ] = Field(
        "external",
        description="Which engine it is, so that its metrics are understood and its answers evened out",
    )
    speed: EngineSpeed | None = Field(None, description="How fast it is; default: learned from its calls")
    kv_events_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Port at which vLLM says what its prefix cache holds (`--kv-events-config`)",
    )
    kv_replay_port: int | None = Field(
        None, ge=1, le=65_535, description="Port at which it says again what was missed (`replay_endpoint`)"
    )

    @model_validator(mode="after")
    def _spoken(self) -> ExternalEndpoint:
        if self.tls is not None and not self.url.startswith("https://"):
            raise ValueError("`tls` needs a `url` that begins with https://")
        return self


class ModelSpec(EngineFields):
    """A model that callers can name, and how it runs."""

    name: Name = Field(
        "gemma-4-e2b",
        description="As people write it: `gemma-4-e2b`, `gemma4:e2b`, `google/gemma-4-E2B-it`; the path of a "
        "`.gguf` file; or a name of yours together with `file` or `endpoints`",
        examples=["gemma-4-e2b", "gemma4:26b", "google/gemma-4-31B-it"],
    )
    aliases: tuple[Name, ...] = Field(
        (),
        description="Further names that callers may use; the usual spellings of a Gemma 4 are known already",
        examples=[["assistant"]],
    )
    file: FilePath | None = Field(
        None, description="Path of a GGUF file; default: the catalogue's file for this model"
    )
    projector: FilePath | None = Field(None, description="Path of the model's mmproj GGUF, for images")
    endpoints: tuple[ExternalEndpoint, ...] = Field((), description="Engines that already run elsewhere")
    replicas: int = Field(
        1,
        ge=1,
        le=64,
        description="Engine processes for this model on this machine; not said, and with GPUs: as many as there are "
        "cards for",
    )
    context: int | None = Field(
        None,
        ge=256,
        le=1_048_576,  # what the model itself allows is the catalogue's to say
        description="Longest prompt plus answer of one request, in tokens; default: fitted to memory",
        examples=[8192],
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Requests that one replica serves at once; default: fitted to the machine",
        examples=[4],
    )
    threads: int | None = Field(
        None, ge=1, le=512, description="CPU threads of one replica; default: the machine's, shared"
    )
    thinking: bool = Field(False, description="Whether the model thinks when a request does not say")
    rollout: ModelRolloutSpec | None = Field(
        None, description="How its engines are changed; default: the file's `rollout`"
    )

    autoscale: AutoscaleSpec | None = Field(
        None, description="Replicas that follow the load; default: as many as `replicas` says"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_file_may_be_the_name(cls, said: Any) -> Any:
        """`name: ./mine.gguf` is what people write for `name: mine` with `file: ./mine.gguf`."""
        if (
            not isinstance(said, dict)
            or said.keys() & {"file", "endpoints"}
            or not isinstance(name := said.get("name"), str)
        ):
            return said
        path = name.strip()
        if not path.lower().endswith(".gguf"):
            return said
        return {**said, "name": path.replace("\\", "/").rsplit("/", 1)[-1][:-5] or path, "file": path}


class TlsSpec(Part):
    """Certificates of the gateway. Files are read again when they change."""

    certificate: FilePath = Field(description="Path of the PEM certificate chain")
    key: FilePath = Field(description="Path of the PEM private key")
    client_ca: FilePath | None = Field(
        None, description="Path of the CA whose client certificates are accepted"
    )
    client_certificate: Literal["optional", "required"] = Field(
        "optional", description="Whether a caller without a certificate of `client_ca` is turned away"
    )


class DeadlineSpec(Part):
    """How long the gateway waits, in seconds."""

    connect_s: Seconds = Field(5.0, description="To open a connection to an engine")
    first_token_s: Seconds = Field(
        600.0, description="Until an answer's first byte; long prefill and thinking are normal"
    )
    between_tokens_s: Seconds = Field(120.0, description="Between two pieces of an answer")
    total_s: Seconds = Field(3600.0, description="For a whole call")
    keep_alive_comment_s: Seconds = Field(15.0, description="A silent stream gets an SSE comment this often")
    client_header_s: Seconds = Field(10.0, description="For a client to send a request's headers")
    client_body_s: Seconds = Field(30.0, description="Longest pause inside a request body")
    client_idle_s: Seconds = Field(75.0, description="An idle kept-alive connection")
    client_write_s: Seconds = Field(60.0, description="Longest time that a client may accept nothing")
    drain_s: Seconds = Field(60.0, description="For running calls to end when the service stops")
    upstream_idle_s: Seconds = Field(
        4.0,
        description="Idle engine connections are dropped after this; keep it below the engine's own "
        "keep-alive (vLLM: 5 s)",
    )


class BoundSpec(Part):
    """How large things may get."""

    header_kib: int = Field(64, ge=4, le=1024, description="Request headers (then 431)")
    body_mib: int = Field(32, ge=1, le=1024, description="Request body (then 413)")
    connections: int = Field(10_000, ge=1, description="Client connections of one worker")
    write_buffer_kib: int = Field(256, ge=16, le=16_384, description="Held for one client that reads slowly")


class GatewaySpec(Part):
    """The door: where callers connect."""

    listen: Listen = Field(
        "127.0.0.1:4367",
        description="Address for callers, `host:port`; `:4367` is every interface, port 0 takes a free one",
        examples=["0.0.0.0:4367", "[::1]:4367"],
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that share the port (SO_REUSEPORT)")
    keys: Literal["required", "off"] = Field(
        "required", description="`off` lets anyone call: only for a loopback address"
    )
    vertex: bool = Field(
        False, description="Vertex AI calls here: its request form is taken, and it says who may call"
    )
    tls: TlsSpec | None = Field(None, description="Certificates; default: plain HTTP")
    media: Literal["refuse", "fetch", "engine"] = Field(
        "refuse",
        description="Addresses of images, audio and video in requests: refused, so that media comes inside the "
        "request; `fetch`: the gateway fetches them from the hosts that `fetch` allows; `engine`: passed on for the "
        "engine to fetch (bound the engine's network first: it will fetch what callers name)",
    )
    fetch: FetchSpec = Field(FetchSpec(), description="What is fetched with `media: fetch`")
    cors_origins: tuple[Origin, ...] = Field((), description="Browser origins that may call; `*` for any")
    deadlines: DeadlineSpec = Field(DeadlineSpec(), description="How long the gateway waits")
    bounds: BoundSpec = Field(BoundSpec(), description="How large things may get")
    retries: int = Field(2, ge=0, le=8, description="Further endpoints tried before an answer's first byte")


class AdminSpec(Part):
    """Health, metrics and control. Loopback unless you say otherwise."""

    listen: Listen = Field(
        "127.0.0.1:4368", description="Address of health, metrics and control, as `host:port`"
    )
    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+$")] | None = Field(
        None,
        description="Its address as browsers know it, when a proxy stands before it; needed for sign-in then",
        examples=["https://gemstead.acme.example"],
    )
    metrics: Literal["open", "role"] = Field(
        "open",
        description="Who reads `/metrics`: anybody who reaches the port, or who has the right `metrics.read`",
    )


class SuperviseSpec(Part):
    """How engine processes are watched."""

    start_s: Seconds = Field(
        1800.0, description="Allowance from start to ready; big models compile for many minutes"
    )
    hang_s: Seconds = Field(
        120.0, description="No token and no completion for this long while requests wait: restart"
    )
    backoff_s: Seconds = Field(1.0, description="First pause before a restart; doubles each time")
    backoff_most_s: Seconds = Field(60.0, description="Longest pause before a restart")
    warm_up: bool = Field(
        True,
        description="Send an engine real requests before it is ready, so that no caller waits for a compiler",
    )
    check: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        description="Before an engine is ready it is asked known questions: nonsense is never ready (`refuse`), is "
        "reported (`warn`), or is not looked for",
    )
    wake_s: Seconds = Field(
        120.0, description="Longest time that a call waits for a model that sleeps or is being woken"
    )
    log_mib: int = Field(10, ge=1, le=10_240, description="An engine log is rotated at this size")
    log_files: int = Field(5, ge=1, le=100, description="Rotated logs kept for each engine")


class Spec(Part):
    """The one file. Everything is optional; no file at all serves the smallest Gemma 4 on this machine."""

    version: Literal[1] = Field(1, description="Version of this file's form")
    models: tuple[ModelSpec, ...] = Field(
        (ModelSpec(),), min_length=1, description="The models that callers can name"
    )
    gateway: GatewaySpec = Field(GatewaySpec(), description="The door: where callers connect")
    admin: AdminSpec = Field(AdminSpec(), description="Health, metrics and control")
    limits: LimitSpec = Field(LimitSpec(), description="How much callers may take")
    identity: IdentitySpec = Field(
        IdentitySpec(), description="Who may call besides holders of an API key, and what each role may do"
    )
    ledger: LedgerSpec = Field(LedgerSpec(), description="What must survive a restart")
    audit: AuditSpec = Field(AuditSpec(), description="The audit log: signed, kept, sent elsewhere")
    supervise: SuperviseSpec = Field(SuperviseSpec(), description="How engine processes are watched")
    routes: tuple[RouteSpec, ...] = Field(
        (), description="Where calls go, beyond the model that they name; the first that is for a call counts"
    )
    traffic: TrafficSpec = Field(TrafficSpec(), description="Which replica takes a call, and who waits")
    rollout: RolloutSpec = Field(
        RolloutSpec(), description="How a changed engine takes the place of the one that runs"
    )
    batch: BatchSpec = Field(BatchSpec(), description="Offline batches")
    deploy: DeploySpec = Field(
        DeploySpec(), description="Where the service is shipped to by `gemstead render` and `gemstead apply`"
    )
    secrets: SecretsSpec = Field(SecretsSpec(), description="Where references to secrets lead")
    store: StoreSpec = Field(StoreSpec(), description="Where model files are kept, and where they come from")
    state_dir: FilePath | None = Field(
        None,
        description="Folder of keys, records and logs; default: `$XDG_STATE_HOME/gemstead` or "
        "`~/.local/state/gemstead`",
    )
    hub: bool = Field(
        True, description="Whether models may be fetched from the hub; `false`: only files at hand"
    )
