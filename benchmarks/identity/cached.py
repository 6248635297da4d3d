"""What a caller's identity costs: an API key, a signed token seen before, and one seen for the first time.

`python -m benchmarks.identity.cached` prints CPU microseconds of each, least of five rounds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from joserfc import jwk, jws

from gemstead.gateway.issuers import Identity, Issuer
from gemstead.gateway.keyring import Keyring
from gemstead.gateway.tokens import TokenBook
from gemstead.ledger.denials import NONE_DENIED
from gemstead.ledger.keys import Grant, KeyBook, open_keys


def least_us(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of one call, the least of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - began) / times)
    return min(rounds) * 1e6


def main() -> None:
    now = time.time()
    key = jwk.RSAKey.generate_key(2048, {"kid": "1"}, private=True)
    public = json.dumps({"keys": [key.as_dict(private=False)]})
    issuer = Issuer(
        name="i", issuer="https://i.example", audience=("a",), default_roles=("service",), jwks=public
    )
    claims = {
        "iss": "https://i.example",
        "aud": "a",
        "sub": "s",
        "exp": now + 3600,
        "groups": ["g" * 36] * 12,
    }
    token = jws.serialize_compact(
        {"alg": "RS256", "kid": "1", "typ": "at+jwt"}, json.dumps(claims).encode(), key
    ).encode()
    identity = Identity(issuers=(issuer,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.db"
        secret = open_keys(path, b"p" * 32).create(Grant(), now=now).secret.encode()
        ring = Keyring(KeyBook(path, b"p" * 32), b"", TokenBook(identity))
        bearer_key, bearer_token = b"Bearer " + secret, b"Bearer " + token
        print(f"token of {len(token)} bytes")
        print(
            f"API key            {least_us(lambda: ring.identify(bearer_key, None, now, '10.0.0.1'), 50_000):7.2f} us"
        )
        print(
            f"token seen before  {least_us(lambda: ring.identify(bearer_token, None, now, '10.0.0.1'), 50_000):7.2f} us"
        )

        def first() -> None:
            book._found.clear()
            book.find(token, now, NONE_DENIED)

        book = TokenBook(identity)
        print(f"token seen first   {least_us(first, 300):7.2f} us")


if __name__ == "__main__":
    main()
