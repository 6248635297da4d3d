"""Whose certificates a command believes when it calls a gateway.

A service of this machine is called by its address, which no certificate names, and its CA may be a company's own. So
what it shows must be the certificate that its file names, and nothing else counts. Any other service is judged as
usual: the system's authorities, or those that `SSL_CERT_FILE` names.
"""

from __future__ import annotations

import argparse
import re
import ssl
from pathlib import Path

_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def usual() -> ssl.SSLContext:
    """The system's authorities, or those of `SSL_CERT_FILE`; also where proxies of the environment are passed over."""
    import httpx2

    return httpx2.create_ssl_context()


def own(args: argparse.Namespace, gateway: str) -> ssl.SSLContext:
    """For the service of this machine at `gateway`."""
    from gemstead.cli.options import read_spec
    from gemstead.spec.fault import SpecError

    if not gateway.startswith("https:"):
        return usual()
    try:
        tls = read_spec(args).gateway.tls
        return usual() if tls is None else only(Path(tls.certificate).expanduser().read_text("ascii"))
    except (SpecError, OSError, ValueError):  # ssl.SSLError is an OSError
        return usual()


def only(pem: str) -> ssl.SSLContext:
    """Believes the first certificate of `pem` and no other, whatever name it is for.

    Raises:
        ValueError, ssl.SSLError: there is none.
    """
    found = _FIRST.search(pem)
    if found is None:
        raise ValueError("no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be a root
    context.load_verify_locations(cadata=found.group())
    return context


def explained(url: str, error: Exception) -> str:
    """Why nobody could be asked at `url`."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            f"{url} shows a certificate that is not believed here: {error}; "
            "set SSL_CERT_FILE to the CA that signed it"
        )
    return f"nothing answers at {url}: {error or type(error).__name__}"
