"""`epp`: pick endpoints for a gateway that somebody else runs (Envoy and what is built on it)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.spec.epp import EppSpec

# Option, field of the file, what it is.
WORDS = (
    ("--pool", "pool", "NAME", "the InferencePool to pick from"),
    ("--listen", "listen", "HOST:PORT", "address for gateways (default :9002)"),
    ("--health", "health", "HOST:PORT", "address for health probes (default :9003)"),
    ("--metrics", "metrics", "HOST:PORT", "address of /metrics and /readyz (default :9090)"),
    ("--engine", "engine", "ENGINE", "whose metrics the endpoints have (default vllm)"),
    ("--policy", "policy", "NAME", "how endpoints are picked (default gemstead)"),
    ("--fallbacks", "fallbacks", "N", "further addresses behind the picked one (default 1)"),
    ("--drain-s", "drain_s", "SECONDS", "for running answers to end when it stops (default 60)"),
)
KUBERNETES = (
    ("--namespace", "namespace", "NAME", "where the InferencePool is (default: the pod's own)"),
    ("--kubeconfig", "kubeconfig", "FILE", "reach the cluster by this file (default: the pod's account)"),
    ("--context", "context", "NAME", "context of the kubeconfig"),
)
NUMBERS: dict[str, type] = {"fallbacks": int, "drain_s": float}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "epp",
        description="Pick endpoints for a gateway that speaks the endpoint-picker protocol (Envoy ext_proc): "
        "with --pool from the pods of an InferencePool, with --file from a file.",
    )
    parser.add_argument("--file", metavar="FILE", help="endpoints and settings; read again when it changes")
    for option, field, shown, help_text in (*WORDS, *KUBERNETES):
        parser.add_argument(option, metavar=shown, dest=field, help=help_text, type=NUMBERS.get(field, str))
    parser.add_argument("--certificate", metavar="FILE", help="PEM chain (default: one is made up)")
    parser.add_argument("--key", metavar="FILE", help="PEM key of the certificate")
    parser.add_argument("--plain", action="store_true", help="no TLS towards gateways")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        import cryptography  # noqa: F401
        import envoy.service.ext_proc.v3  # noqa: F401
        import hpack  # noqa: F401
    except ImportError as error:
        raise Trouble(
            f"a picker needs {error.name}: pip install 'gemstead[epp]' (or add [epp] to how Gemstead was installed)"
        ) from None
    import asyncio

    import uvloop

    from gemstead.gateway.sharing import misses_seed
    from gemstead.supervise.bounds import ours
    from gemstead.wiring.epp import run as pick
    from gemstead.wiring.epp_sources import source_of
    from gemstead.wiring.sharing import sharing

    for sentence in ours():
        print(f"warning: {sentence}", file=sys.stderr)
    file = Path(args.file).expanduser().absolute() if args.file else None
    spec = read(args, file)
    shared = sharing(spec.sharing, os.environ, None, "sharing")
    if more := misses_seed(shared):  # Python hashes prompts by a seed that it reads once
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **more})  # noqa: S606
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx2", "httpcore", "uvicorn", "hpack"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    async def picked() -> int:
        source = source_of(spec, file, lambda: read(args, file), os.environ)
        return await pick(spec, source, lambda sentence: print(sentence, flush=True), shared)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(picked())


def read(args: argparse.Namespace, file: Path | None) -> EppSpec:
    """The picker that file and options describe; options win.

    Raises:
        Trouble: the file cannot be read.
        SpecError: what it or an option says is not valid.
    """
    from gemstead.cli.options import shown, text_of
    from gemstead.spec.epp import overridden, parse

    if file is not None and not file.exists():
        raise Trouble(f"{args.file}: there is no such file (--file)", code=USAGE)
    spec = parse(text_of(file), shown(file)) if file is not None else parse("", "")
    said = {field: value for _, field, _, _ in WORDS if (value := getattr(args, field)) is not None}
    inside = {field: value for _, field, _, _ in KUBERNETES if (value := getattr(args, field)) is not None}
    if args.certificate or args.key:
        if not (args.certificate and args.key):
            raise Trouble("--certificate and --key are said together", code=USAGE)
        said["tls"] = {"certificate": args.certificate, "key": args.key}
    elif args.plain:
        said["tls"] = "off"
    return overridden(spec, said, inside)
