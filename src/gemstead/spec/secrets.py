"""The `secrets` section: where references to secrets lead, and how often they are read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field

from gemstead.spec.part import FilePath, Part, Seconds, Secret

LocalRef = Annotated[
    str,
    Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$", description="`env:NAME` or `file:PATH`"),
    Secret(),
]
Address = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class VaultSecretsSpec(Part):
    """Vault or OpenBao, for `vault:MOUNT/PATH#FIELD`. Needs `gemstead[vault]`."""

    address: Address = Field(description="Where it is", examples=["https://vault.example:8200"])
    namespace: str = Field("", description="Namespace (Vault Enterprise, OpenBao)", max_length=256)
    auth: Literal["token", "approle", "kubernetes"] = Field("approle", description="How to log in")
    mount: str = Field("", description="Where that way to log in is mounted; default: its own name")
    role: str = Field("", description="Role for `kubernetes`")
    role_id: LocalRef | None = Field(None, description="For `approle`, as `env:NAME` or `file:PATH`")
    secret_id: LocalRef | None = Field(None, description="For `approle`, as `env:NAME` or `file:PATH`")
    token: LocalRef | None = Field(None, description="For `token`, as `env:NAME` or `file:PATH`")
    token_file: FilePath = Field(
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        description="The Pod's service account token, for `kubernetes`",
    )
    ca: FilePath | None = Field(None, description="CA that signed Vault's certificate; default: the system's")


class AwsSecretsSpec(Part):
    """AWS Secrets Manager, for `aws-sm:NAME[#FIELD]`. Needs `gemstead[aws]`; who asks is found as boto3 does."""

    region: str = Field("", description="Region; default: as boto3 finds it", examples=["eu-central-1"])
    endpoint: Address | Literal[""] = Field("", description="Another address, such as a VPC endpoint")


class GcpSecretsSpec(Part):
    """Google Secret Manager, for `gcp-sm:projects/P/secrets/NAME[#FIELD]`. Needs `gemstead[gcp]`."""

    endpoint: Address = Field(
        "https://secretmanager.googleapis.com", description="Address; a regional one where data may not leave"
    )


class KubernetesSecretsSpec(Part):
    """Secrets of Kubernetes, for `k8s:[NAMESPACE/]NAME#KEY`, read as the Pod's service account."""

    address: Address | Literal[""] = Field("", description="API server; default: this cluster's")
    account: FilePath | None = Field(
        None, description="Folder of token, namespace and ca.crt; default: where Kubernetes mounts them"
    )


class SecretsSpec(Part):
    """Where references to secrets lead."""

    refresh_s: Seconds = Field(
        300.0,
        description="How old a secret of a store may get; a changed one is put to use without a restart. Files are "
        "read again as soon as they change",
    )
    file_mode: Literal["private", "any"] = Field(
        "private",
        description="`private`: a file that others can read is refused (but not below /run/secrets); `any`: taken as "
        "it is",
    )
    vault: VaultSecretsSpec | None = Field(None, description="Vault or OpenBao")
    aws: AwsSecretsSpec = Field(AwsSecretsSpec(), description="AWS Secrets Manager")
    gcp: GcpSecretsSpec = Field(GcpSecretsSpec(), description="Google Secret Manager")
    kubernetes: KubernetesSecretsSpec = Field(KubernetesSecretsSpec(), description="Secrets of Kubernetes")


def references(part: BaseModel, where: str = "") -> Iterator[tuple[str, str]]:
    """Every reference to a secret in the file: the field's path and the reference."""
    for name, field in type(part).model_fields.items():
        path = f"{where}.{name}" if where else name
        marked = any(isinstance(mark, Secret) for mark in field.metadata) or _marked(field.annotation)
        yield from _in_value(getattr(part, name), path, marked)


def _in_value(value: Any, path: str, marked: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        yield from references(value, path)
    elif isinstance(value, str) and marked:
        yield path, value
    elif isinstance(value, (tuple, list)):
        for number, one in enumerate(value):
            yield from _in_value(one, f"{path}[{number}]", marked)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _in_value(one, f"{path}.{key}", marked)


def _marked(annotation: Any) -> bool:
    return isinstance(annotation, Secret) or any(map(_marked, get_args(annotation)))
