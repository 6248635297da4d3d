"""Whose certificates commands believe: that of this machine's own service, by its file; of others, as usual."""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from gemstead.cli.trust import explained, only, own, usual

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@contextlib.contextmanager
def shows(certificate: trustme.LeafCert) -> Iterator[str]:
    """A server with this certificate; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as peer:
                        peer.recv(65536)
                        peer.sendall(ANSWER)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def options(file: Path) -> argparse.Namespace:
    return argparse.Namespace(config=str(file), overrides=[])


def written(folder: Path, certificate: trustme.LeafCert) -> Path:
    """A file that names this certificate."""
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "tls.pem"))
    file = folder / "gemstead.yaml"
    file.write_text(f"gateway: {{tls: {{certificate: {folder}/tls.pem, key: {folder}/tls.pem}}}}\n")
    return file


def asked(url: str, context: ssl.SSLContext) -> int:
    with httpx2.Client(verify=context, trust_env=False) as client:
        return int(client.get(url).status_code)


def test_the_own_service_is_believed_by_its_certificate_whatever_its_name(tmp_path: Path) -> None:
    ca = trustme.CA()
    mine, other = ca.issue_cert("llm.acme.example"), ca.issue_cert("llm.acme.example")
    file = written(tmp_path, mine)
    with shows(mine) as url:
        assert asked(url, own(options(file), url)) == 200
        with pytest.raises(httpx2.ConnectError) as caught:
            asked(url, usual())
        assert "shows a certificate that is not believed here" in explained(url, caught.value)
    with shows(other) as url, pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        asked(url, own(options(file), url))  # the same name, the same CA


def test_others_are_judged_by_the_cas_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with shows(ca.issue_cert("127.0.0.1")) as url:
        with pytest.raises(httpx2.ConnectError):
            asked(url, usual())
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert asked(url, usual()) == 200


def test_a_file_without_a_usable_certificate_leaves_it_at_the_usual(tmp_path: Path) -> None:
    file = tmp_path / "gemstead.yaml"
    for text in ("version: 1\n", "modles: 3\n", "gateway: {tls: {certificate: gone.pem, key: gone.pem}}\n"):
        file.write_text(text)
        assert own(options(file), "https://127.0.0.1:1").check_hostname
    for pem in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises((ValueError, ssl.SSLError)):
            only(pem)
