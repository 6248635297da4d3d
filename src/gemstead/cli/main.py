"""`gemstead`: the first word picks the command; only that command's module is imported.

`--help` and a mistyped word are answered from the table below, so they cost next to nothing. Whatever a
command raises ends here, as a line that says what is wrong: no traceback reaches a user. Exit codes: 0
done, 1 failed, 2 the command line or the file is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

# verb: (module under gemstead.cli, what it does), in the order that people meet them
VERBS = {
    "serve": ("serve", "start the model and its gateway, and keep them running"),
    "run": ("run", "chat with the model in this terminal"),
    "batch": ("batch", "have a file of requests answered when the model has room"),
    "ps": ("running", "show what runs: models, engines, gateway workers"),
    "logs": ("logs", "show what engines and workers print (-f follows)"),
    "stop": ("running", "finish running calls, then stop the service"),
    "reload": ("running", "apply a changed gemstead.yaml without dropping a call"),
    "rollout": ("rollout", "show or steer how a changed engine takes the place of the old one"),
    "restart": ("rollout", "replace a model's engines by fresh ones without dropping a call"),
    "scale": ("rollout", "run more or fewer engines of a model"),
    "sleep": ("rollout", "give a model's memory back until it is needed"),
    "wake": ("rollout", "have a model that sleeps answer again"),
    "init": ("config", "write a commented gemstead.yaml fitted to this machine"),
    "validate": ("config", "check gemstead.yaml"),
    "config": ("settings", "show every setting in force, and where it was said"),
    "schema": ("config", "print the JSON Schema of gemstead.yaml"),
    "keys": ("keys", "create, list, revoke, rotate and show API keys"),
    "secrets": ("secrets", "prove that every secret which the file refers to can be read"),
    "login": ("login", "sign in at an issuer of the file"),
    "logout": ("login", "forget the sign-in"),
    "whoami": ("login", "show who is signed in and what that lets one do"),
    "deny": ("identity", "have signed tokens and certificates refused at once"),
    "roles": ("identity", "show who may do what"),
    "admin": ("identity", "set the break-glass password"),
    "limits": ("limits", "show how much of each limit and budget is used, or let one begin anew"),
    "db": ("db", "show and bring forward the form of the ledger's files"),
    "backup": ("backup", "copy the ledger and its secrets into one file"),
    "restore": ("backup", "put a backup back, or try whether that would work (--drill)"),
    "access-review": ("comply", "list who may do what, last used, and what is stale"),
    "comply": ("comply", "report what is set and recorded for SOC 2, ISO 27001, HIPAA, the EU AI Act, GDPR"),
    "usage": ("audit", "show tokens and calls by tenant, app, user, key or model"),
    "audit": ("audit", "read, verify, export and ship the audit log"),
    "models": ("models", "fetch, list, verify, pin, remove, export and import models"),
    "plan": ("plan", "work out what to run: memory, replicas, flags, speed and cost"),
    "routes": ("routes", "show what the file's routes would change, from the audit log"),
    "simulate": ("simulate", "play a load against a pretended fleet: policies, sizes, failures"),
    "engines": ("engines", "install, list and upgrade the engines that run on cards"),
    "epp": ("epp", "pick endpoints for an Envoy gateway, from a cluster or a file"),
    "render": ("render", "write the plan as files: Docker, Compose, Kubernetes, clouds"),
    "diff": ("render", "say what rendering again would change"),
    "apply": ("apply", "carry the plan out in a cluster or cloud; go back"),
    "doctor": ("doctor", "look at this machine: cards, driver, disk, memory, network, ports"),
    "catalog": ("catalog", "look up models, cards, prices, engines and what is known to break"),
    "check": ("check", "try a dozen real requests against the running service"),
    "version": ("main", "show the version"),
}
USAGE_CODE, FAILED_CODE, INTERRUPTED_CODE = 2, 1, 130


def entry() -> None:
    """The `gemstead` command."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed()
    sys.exit(main(sys.argv[1:]))


def _open_closed() -> None:
    """Standard streams that were closed (`serve >&-`) lead nowhere, and never into what is opened later."""
    import os

    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free, each time
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(fd, mode, closefd=False)  # noqa: SIM115
        for fd, (stream, mode) in enumerate(((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")))
    )


def main(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else USAGE_CODE
    if arguments[0] in ("version", "--version", "-V"):
        return show_version(arguments[1:])
    try:
        return _command(arguments)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED_CODE
    except BrokenPipeError:  # `gemstead ... | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        from gemstead.cli.trouble import said

        return said(error)


def _command(arguments: list[str]) -> int:
    verb = arguments[0]
    if verb not in VERBS:
        print(_unknown(verb), file=sys.stderr)
        return USAGE_CODE
    parser = argparse.ArgumentParser(prog="gemstead", description=VERBS[verb][1], allow_abbrev=False)
    commands = parser.add_subparsers(dest="verb", required=True)
    import_module(f"gemstead.cli.{VERBS[verb][0]}").add(commands)
    args = parser.parse_args(arguments)
    if "GEMSTEAD_ROLES" in os.environ:
        from gemstead.cli.rolespage import check_role

        check_role(parser, args, os.environ["GEMSTEAD_ROLES"])
    code = args.run(args)
    sys.stdout.flush()
    return int(code or 0)


def overview() -> str:
    """What `gemstead --help` prints."""
    lines = [f"  {verb:<9} {does}" for verb, (_, does) in VERBS.items()]
    return "\n".join(
        [
            "usage: gemstead VERB [options]",
            "",
            "Gemma 4 on your own hardware, in production, from one file.",
            "",
            *lines,
            "",
            "`gemstead VERB --help` says more. Most begin with: gemstead serve",
        ]
    )


def show_version(options: list[str]) -> int:
    """Print the version, as JSON on `--json`."""
    from gemstead import __version__

    if options not in ([], ["--json"]):
        print("usage: gemstead version [--json]", file=sys.stderr)
        return USAGE_CODE
    print(f'{{"version": "{__version__}"}}' if options else f"gemstead {__version__}")
    return 0


def _unknown(verb: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean `gemstead {near[0]}`?" if near else "see `gemstead --help`"
    what = "option" if verb.startswith("-") else "verb"
    return f"gemstead: unknown {what} {verb!r}; {hint}"


if __name__ == "__main__":
    entry()
