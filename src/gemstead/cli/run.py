"""`run`: a chat in the terminal with the service that runs here.

Ctrl-C stops the answer and not the program; a second one on an empty line, Ctrl-D or /exit ends it. The
service must run: a chat that started one would also have to stop it, and with it everyone else's. The key
is `GEMSTEAD_API_KEY`, or one that is made for this chat, expires within the day and is revoked at the end:
it is never on a command line. With a prompt, or with something on standard input, one answer is printed and
that is all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble
from gemstead.cli.trust import explained, own, usual

if TYPE_CHECKING:
    import ssl

KEY_LIFE_S = 86_400.0
HELP = "/exit ends, /new forgets the conversation, Ctrl-C stops an answer"


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    parser = subparsers.add_parser("run", description="Chat with the model in this terminal. " + HELP + ".")
    parser.add_argument("prompt", nargs="*", help="ask this and print the answer; default: a conversation")
    parser.add_argument("-m", "--model", help="default: the service's first")
    parser.add_argument("--url", help="another service, such as http://host:4367 (key in GEMSTEAD_API_KEY)")
    parser.add_argument("--system", help="a system prompt")
    parser.add_argument("--thinking", action="store_true", help="let the model think first (shown dimmed)")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--json", action="store_true", help="with a prompt: the answer as JSON")
    add_file(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    prompt = " ".join(args.prompt)
    if not sys.stdin.isatty():
        piped = sys.stdin.read()
        prompt = f"{prompt}\n\n{piped}".strip() if piped.strip() else prompt
        if not prompt:
            raise Trouble("nothing to ask: give a prompt, or run this in a terminal")
    with _service(args) as (url, key, trusts):
        chat = Chat(url, key, trusts, args)
        if prompt:
            return _once(chat, prompt, args.json)
        return _converse(chat)


def _once(chat: Chat, prompt: str, as_json: bool) -> int:
    if as_json:
        text = "".join(text for kind, text in chat.ask(prompt) if kind == "content")
        print(json.dumps({"model": chat.model, "content": text, "usage": chat.usage}))
        return 0
    _show(chat.ask(prompt))
    return 0


def _converse(chat: Chat) -> int:
    try:
        import readline  # noqa: F401  line editing and history
    except ImportError:
        pass
    print(f"{chat.model} at {chat.url}. {HELP}.")
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line in ("/exit", "/quit", "/bye"):
            return 0
        if line == "/new":
            chat.forget()
        elif line.startswith("/"):
            print(HELP)
        elif line:
            _answer(chat, line)


def _answer(chat: Chat, line: str) -> None:
    """One turn of a conversation. Whatever goes wrong with it does not end the conversation."""
    try:
        _show(chat.ask(line))
    except KeyboardInterrupt:
        print(" [stopped]")
    except Trouble as trouble:
        print(f"gemstead: {trouble}", file=sys.stderr)


def _show(pieces: Iterator[tuple[str, str]]) -> None:
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    last = ""
    try:
        for kind, text in pieces:
            if kind != last:
                print(("\n" if last else "") + (dim if kind == "thought" else plain if last else ""), end="")
                last = kind
            print(text, end="", flush=True)
    finally:
        print(plain if last == "thought" else "", flush=True)


class Chat:
    """A conversation: what was said so far, and how to go on."""

    def __init__(self, url: str, key: str, trusts: ssl.SSLContext, args: argparse.Namespace) -> None:
        import httpx2

        self.url, self.usage = url, None
        self._args = args
        self._said: list[dict[str, str]] = []
        timeout = httpx2.Timeout(10.0, read=3600.0)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(
            base_url=url, headers=headers, timeout=timeout, trust_env=False, verify=trusts
        )
        self.model = args.model or self._first_model()

    def forget(self) -> None:
        self._said.clear()

    def ask(self, text: str) -> Iterator[tuple[str, str]]:
        """The answer's pieces as they come: ("content" or "thought", text). Whatever came is remembered.

        Raises:
            Trouble: the service refused, failed or went away.
        """
        self._said.append({"role": "user", "content": text})
        answer = ""
        try:
            for kind, piece in self._stream():
                answer += piece if kind == "content" else ""
                yield kind, piece
        finally:
            if answer:
                self._said.append({"role": "assistant", "content": answer})
            else:
                self._said.pop()

    def _stream(self) -> Iterator[tuple[str, str]]:
        import httpx2

        try:
            with self._http.stream("POST", "/v1/chat/completions", json=self._body()) as response:
                if response.status_code != 200:
                    raise Trouble(_refusal(response.status_code, response.read()))
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield from self._pieces(json.loads(line[6:]))
        except httpx2.HTTPError as error:
            raise Trouble(f"the service at {self.url} went away: {error or type(error).__name__}") from None

    def _body(self) -> dict[str, Any]:
        args, messages = self._args, self._said
        if args.system:
            messages = [{"role": "system", "content": args.system}, *messages]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if args.thinking:
            body["chat_template_kwargs"] = {"enable_thinking": True}
        for name in ("temperature", "max_tokens"):
            if getattr(args, name) is not None:
                body[name] = getattr(args, name)
        return body

    def _pieces(self, chunk: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if error := chunk.get("error"):
            raise Trouble(f"the answer was cut: {error.get('message', error)}")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ())[:1]:
            delta = choice.get("delta", {})
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                yield "thought", thought
            if content := delta.get("content"):
                yield "content", content

    def _first_model(self) -> str:
        import httpx2

        try:
            response = self._http.get("/v1/models", timeout=10.0)
        except httpx2.HTTPError as error:
            raise Trouble(explained(self.url, error)) from None
        if response.status_code != 200:
            raise Trouble(_refusal(response.status_code, response.content))
        names = [model["id"] for model in response.json()["data"]]
        if not names:
            raise Trouble(f"the service at {self.url} has no model that this key may call")
        return str(names[0])


def _refusal(status: int, body: bytes) -> str:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace") or "no reason was given"
    return f"{message} (HTTP {status})"


@contextmanager
def _service(args: argparse.Namespace) -> Iterator[tuple[str, str, ssl.SSLContext]]:
    """Where to call, with which key, and whose certificate to believe."""
    import os

    key = os.environ.get("GEMSTEAD_API_KEY", "")
    if url := args.url or os.environ.get("GEMSTEAD_URL"):
        yield url.rstrip("/").removesuffix("/v1"), key, usual()
        return
    from gemstead.cli.running import find, nothing_runs

    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder) + " (leave it running, and chat in another terminal)")
    if key or not card.keys:
        yield card.gateway, key, own(args, card.gateway)
        return
    from gemstead.ledger.keys import Grant
    from gemstead.wiring.ledger import key_store

    store = key_store(folder)
    now = time.time()
    grant = Grant(
        app="gemstead run", user=os.environ.get("USER", ""), note="a chat", expires=now + KEY_LIFE_S
    )
    minted = store.create(grant, now=now)
    try:
        yield card.gateway, minted.secret, own(args, card.gateway)
    finally:
        store.revoke(minted.key.key_id, now=time.time())
