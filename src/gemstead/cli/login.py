"""`login`, `logout`, `whoami`: sign in at an issuer of the file, and be known by its token from then on.

With a browser it is the authorization code with PKCE, sent back to a port of this machine; with `--device` a code is
shown that can be entered on any other machine. The tokens are kept in one file of mode 0600 and renewed when they are
needed: `curl -H "Authorization: Bearer $(gemstead whoami --token)" ...`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    import httpx2

    from gemstead.operate import oidc

WAIT_S = 300.0  # for a person at a browser
FRESH_S = 60.0  # a token that ends sooner is renewed
PAGE = b"<!doctype html><title>Gemstead</title><p>You are signed in. This window can be closed."
SORRY = b"<!doctype html><title>Gemstead</title><p>The sign-in failed; the terminal says why."


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    sign_in = subparsers.add_parser(
        "login", description="Sign in at an issuer of the file (identity.issuers)."
    )
    sign_in.add_argument("--issuer", metavar="NAME", help="which one, if there are several")
    sign_in.add_argument("--device", action="store_true", help="show a code to enter on another machine")
    sign_in.add_argument("--no-browser", action="store_true", help="show the address and open nothing")
    sign_out = subparsers.add_parser("logout", description="Forget the sign-in, here and at the issuer.")
    who = subparsers.add_parser("whoami", description="Show who is signed in, and what that lets one do.")
    how = who.add_mutually_exclusive_group()
    how.add_argument("--token", action="store_true", help="print a fresh access token and nothing else")
    how.add_argument("--json", action="store_true", help="as JSON")
    for parser, run in ((sign_in, login), (sign_out, logout), (who, whoami)):
        add_file(parser)
        parser.set_defaults(run=run)


def login(args: argparse.Namespace) -> int:
    import asyncio

    return asyncio.run(_login(args))


async def _login(args: argparse.Namespace) -> int:
    from gemstead.operate import oidc

    at, us, kind = _issuer(args)
    async with oidc.client(at) as http:
        document = await oidc.discover(at, http)
        if args.device:
            tokens = await _by_device(document, us, http)
        else:
            tokens = await _by_browser(document, us, http, opens=not args.no_browser)
    if kind == "id":
        tokens = {**tokens, "access_token": tokens.get("id_token") or tokens["access_token"]}
    _keep({"issuer": at.name, **_kept(tokens)})
    print(f"signed in at {at.name}; `gemstead whoami` says as whom", file=sys.stderr)
    return 0


async def _by_browser(
    document: Any, us: oidc.Client, http: httpx2.AsyncClient, *, opens: bool
) -> dict[str, Any]:
    """Tokens from a sign-in in a browser on this machine."""
    import asyncio
    import webbrowser

    from gemstead.operate import oidc

    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()
    good = False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline())[:8192].split(b" ")
        path, _, query = line[1].decode("ascii", "replace").partition("?") if len(line) == 3 else ("", "", "")
        ours = line[0] == b"GET" and path == "/callback" and not came.done()
        if ours:
            came.set_result(query)
            await ended.wait()
        body = (PAGE if good else SORRY) if ours else b""
        status = b"200 OK" if ours else b"404 Not Found"
        writer.write(
            b"HTTP/1.1 %s\r\ncontent-type: text/html\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, len(body), body)
        )
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=16_384)
    port = server.sockets[0].getsockname()[1]
    attempt = oidc.begin(document, us, f"http://127.0.0.1:{port}/callback")
    print(f"Open this in a browser on this machine:\n\n{attempt.url}\n", file=sys.stderr, flush=True)
    if opens:
        webbrowser.open(attempt.url)
    try:
        async with asyncio.timeout(WAIT_S):
            query = await came
        code = oidc.code_of(attempt, query, document)
        tokens = await oidc.redeem(document, us, attempt, code, http)
        oidc.check_id_token(tokens, document, us, attempt, time.time())
        good = True
    except TimeoutError:
        raise Trouble("nobody signed in within five minutes; try again, or use --device") from None
    finally:
        ended.set()
        await asyncio.sleep(0)
        server.close()
    return tokens


async def _by_device(document: Any, us: oidc.Client, http: httpx2.AsyncClient) -> dict[str, Any]:
    """Tokens from a sign-in on another machine (RFC 8628)."""
    import asyncio

    from gemstead.operate import oidc

    shown = await oidc.begin_device(document, us, http)
    print(
        f"On any machine open {shown['verification_uri']} and enter\n\n    {shown['user_code']}\n",
        file=sys.stderr,
    )
    if whole := shown.get("verification_uri_complete"):
        print(f"or open {whole}\n", file=sys.stderr)
    sys.stderr.flush()
    pause_s = _seconds(shown.get("interval"), 5.0)
    until = time.monotonic() + _seconds(shown.get("expires_in"), WAIT_S)
    while time.monotonic() < until:
        await asyncio.sleep(pause_s)
        try:
            tokens = await oidc.redeem_device(document, us, shown["device_code"], http)
        except oidc.ProviderTrouble as trouble:
            if trouble.code != "slow_down":
                raise
            pause_s += 5.0  # RFC 8628, 3.5
            continue
        if tokens is not None:
            return tokens
    raise Trouble("nobody entered the code in time; try again")


def _seconds(said: object, usual: float) -> float:
    """What a provider said, an hour at most; the usual where that is no time."""
    return min(float(said), 3600.0) if isinstance(said, (int, float)) and said >= 0 else usual


def logout(args: argparse.Namespace) -> int:
    import asyncio

    kept = _read()
    if kept is None:
        print("nobody is signed in")
        return 0
    _path().unlink(missing_ok=True)
    told = asyncio.run(_give_back(args, kept)) if kept.get("refresh_token") else False
    print("signed out" if told else "signed out here; the issuer was not told, and its token ends by itself")
    return 0


async def _give_back(args: argparse.Namespace, kept: dict[str, Any]) -> bool:
    from gemstead.operate import oidc

    try:
        at, us, _ = _issuer(args, kept["issuer"])
        async with oidc.client(at) as http:
            return await oidc.give_back(await oidc.discover(at, http), us, kept["refresh_token"], http)
    except (
        Exception
    ):  # whatever stands in the way: the tokens are forgotten here, which is what was asked for
        return False


def whoami(args: argparse.Namespace) -> int:
    kept = _fresh(args)
    if args.token:
        print(kept["access_token"])
        return 0
    said = _claims(kept["access_token"])
    here = _here(args, kept["access_token"])
    if args.json:
        print(json.dumps({"issuer": kept["issuer"], "claims": said, "service": here}, indent=2))
        return 0
    from gemstead.cli.spans import shown

    print(f"issuer       {kept['issuer']}")
    print(f"subject      {said.get('sub', '(the token does not say)')}")
    print(
        f"until        {shown(kept['expires_at'])}{', renewed by itself' if kept.get('refresh_token') else ''}"
    )
    if here is None:
        print("no service runs here, so it cannot be asked what it lets you do")
    elif "error" in here:
        print(f"the service here says: {here['error']}")
    else:
        print(f"tenant       {here['tenant']}\nuser         {here['user']}")
        print(f"roles        {', '.join(here['roles'])}\nmay          {', '.join(here['rights'])}")
    return 0


def _here(args: argparse.Namespace, token: str) -> dict[str, Any] | None:
    """What the service in this state folder makes of the token; None when none runs."""
    import httpx2

    from gemstead.cli.running import find

    _, card = find(args)
    if card is None:
        return None
    try:
        headers = {"Authorization": f"Bearer {token}"}
        return dict(httpx2.get(f"{card.admin}/admin/whoami", headers=headers, trust_env=False).json())
    except (httpx2.HTTPError, ValueError) as error:
        return {"error": f"it does not answer ({error})"}


def _fresh(args: argparse.Namespace) -> dict[str, Any]:
    """The sign-in, with a token that counts for another minute at least."""
    import asyncio

    kept = _read()
    if kept is None:
        raise Trouble("nobody is signed in: `gemstead login`")
    if time.time() < kept["expires_at"] - FRESH_S:
        return kept
    if not kept.get("refresh_token"):
        raise Trouble("the sign-in has ended: `gemstead login`")
    return asyncio.run(_renew(args, kept))


async def _renew(args: argparse.Namespace, kept: dict[str, Any]) -> dict[str, Any]:
    from gemstead.operate import oidc

    at, us, kind = _issuer(args, kept["issuer"])
    async with oidc.client(at) as http:
        try:
            tokens = await oidc.refresh(await oidc.discover(at, http), us, kept["refresh_token"], http)
        except oidc.ProviderTrouble as trouble:
            if trouble.code == "invalid_grant":
                raise Trouble("the sign-in has ended: `gemstead login`") from None
            raise
    if kind == "id" and "id_token" in tokens:
        tokens = {**tokens, "access_token": tokens["id_token"]}
    made = {"issuer": at.name, "refresh_token": kept["refresh_token"], **_kept(tokens)}
    _keep(made)
    return made


def _issuer(args: argparse.Namespace, name: str = "") -> tuple[oidc.Provider, oidc.Client, str]:
    """Where to sign in, who we are there, and which of its tokens counts."""
    import os

    from gemstead.cli.options import read_spec
    from gemstead.operate.secrets.keeper import Keeper
    from gemstead.wiring.entrance import client_of
    from gemstead.wiring.identity import provider
    from gemstead.wiring.secrets import resolver

    wanted = name or getattr(args, "issuer", None)
    spec = read_spec(args)
    offered = [one for one in spec.identity.issuers if one.login is not None]
    found = [one for one in offered if wanted in (None, "", one.name)]
    if not offered:
        raise Trouble("the file names no issuer to sign in at: identity.issuers[].login", code=USAGE)
    if len(found) != 1:
        names = ", ".join(one.name for one in offered)
        raise Trouble(f"say which issuer with --issuer; there are: {names}", code=USAGE)
    one = found[0]
    assert one.login is not None
    read = resolver(os.environ, Keeper(spec.secrets, os.environ))
    secret = read(one.login.client_secret, f"identity.issuers ({one.name}).login.client_secret")
    return provider(one, read), client_of(one, secret), one.token


def _kept(tokens: dict[str, Any]) -> dict[str, Any]:
    said = _claims(str(tokens["access_token"]))
    ends = said.get("exp") if isinstance(said.get("exp"), (int, float)) else None
    expires = float(ends) if ends else time.time() + float(tokens.get("expires_in", 300))
    refresh = {"refresh_token": tokens["refresh_token"]} if tokens.get("refresh_token") else {}
    return {"access_token": tokens["access_token"], "expires_at": expires, **refresh}


def _claims(token: str) -> dict[str, Any]:
    """What a token says, to be shown: whether it may be believed is for the service to judge."""
    import base64

    try:
        part = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _path() -> Path:
    import os

    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "gemstead" / "login.json"


def _read() -> dict[str, Any] | None:
    try:
        kept = json.loads(_path().read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Trouble(
            f"{_path()} cannot be read ({error}): `gemstead logout`, then `gemstead login`"
        ) from None
    if not isinstance(kept, dict) or not {"issuer", "access_token", "expires_at"} <= kept.keys():
        return None
    return kept


def _keep(kept: dict[str, Any]) -> None:
    """Whole or not at all, for its owner only."""
    import os
    import secrets

    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(kept, file)
    draft.replace(path)
