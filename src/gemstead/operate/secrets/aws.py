"""Secrets of AWS Secrets Manager: the one door to boto3 (`pip install 'gemstead[aws]'`).

Who asks is found as boto3 always does: environment, shared files, or the role of the machine or Pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemstead.operate.secrets.reference import NoSecret, Reference, field_of

if TYPE_CHECKING:
    from gemstead.spec.secrets import AwsSecretsSpec


class Aws:
    """Secrets Manager in one region."""

    def __init__(self, spec: AwsSecretsSpec) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise NoSecret("aws-sm: needs a package more: pip install 'gemstead[aws]'") from None
        bounds = Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 3, "mode": "standard"})
        try:
            self._client: Any = boto3.client(
                "secretsmanager",
                region_name=spec.region or None,
                endpoint_url=spec.endpoint or None,
                config=bounds,
            )
        except BotoCoreError as error:
            raise NoSecret(f"aws-sm: {error} (secrets.aws.region names the region)") from None

    def read(self, reference: Reference) -> str:
        """The current version's text, or a field of it.

        Raises:
            NoSecret: it cannot be had.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_secret_value(SecretId=reference.name)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "an error")
            remedy = {
                "ResourceNotFoundException": "there is no such secret in this region",
                "AccessDeniedException": "the role needs secretsmanager:GetSecretValue on it",
            }.get(code, f"AWS answers {code}")
            raise NoSecret(f"{reference}: {remedy}") from None
        except BotoCoreError as error:
            raise NoSecret(f"{reference}: AWS cannot be asked ({type(error).__name__})") from None
        text = answer.get("SecretString")
        if text is None:
            raise NoSecret(f"{reference}: holds bytes; store it as text")
        return field_of(reference, text)
