"""What the gateway's image holds: versions that fit what the project asks for, each with its checksum."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_golden import CASES, EIGHT, rendered

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "src/gemstead/render/locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
AGAIN = "run .ci/lock and look at the difference"


def pins(text: str) -> dict[str, str]:
    found = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))
    blocks = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(found)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks), "one without a checksum"
    return found


def locked(*names: str) -> dict[str, str]:
    return pins("".join((LOCKS / f"{name}.txt").read_text("utf-8") for name in names))


def fits(wanted: list[str], found: dict[str, str]) -> None:
    for text in wanted:
        one = Requirement(text)
        version = found.get(re.sub(r"[-_.]+", "-", one.name).lower())
        assert version and version in one.specifier, f"{text}: the lock has {version}; {AGAIN}"


def test_the_image_gets_what_the_project_asks_for_and_no_engine() -> None:
    wanted = [one for one in PROJECT["project"]["dependencies"] if not one.startswith("xllamacpp")]
    assert len(wanted) > 10
    fits(wanted, locked("serve"))
    assert "xllamacpp" not in locked("serve") and "pip" not in locked("serve")


def test_it_is_compiled_by_what_the_project_compiles_with() -> None:
    hook = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    fits(PROJECT["build-system"]["requires"] + hook["dependencies"], locked("build"))


@pytest.mark.parametrize("extra", sorted(file.stem.partition("-")[2] for file in LOCKS.glob("serve-*.txt")))
def test_each_extra_adds_what_it_asks_for(extra: str) -> None:
    fits(PROJECT["project"]["optional-dependencies"][extra], locked("serve", f"serve-{extra}"))


@pytest.mark.parametrize(
    ("more", "package"),
    [
        ({"limits": {"store": "env:REDIS_URL"}}, "redis"),
        ({"ledger": {"store": "vault:kv/store#url", "secret": "env:STORE_SECRET"}}, "hvac"),
        ({"ledger": {"store": "env:STORE_URL", "secret": "aws-sm:store"}}, "boto3"),
        ({"ledger": {"store": "env:STORE_URL", "secret": "env:STORE_SECRET"}}, "asyncpg"),
        ({"ledger": {"store": "env:STORE_URL", "secret": "env:STORE_SECRET"}}, "alembic"),
        (
            {"ledger": {"store": "env:A", "secret": "env:B"}, "limits": {"store": "env:C"}},
            "sqlalchemy",
        ),
        ({"traffic": {"sharing": {"store": "env:REDIS_URL", "secret": "env:SECRET"}}}, "redis"),
    ],
)
def test_a_file_that_needs_more_gets_more(more: dict[str, object], package: str) -> None:
    plain = rendered("docker", EIGHT).files["gateway/requirements.txt"]
    assert package not in pins(plain)
    text = rendered("docker", EIGHT | more).files["gateway/requirements.txt"]
    assert package in pins(text)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in ("docker", "cloudrun")])
def test_what_is_copied_into_an_image_is_rendered_and_let_through(case: str) -> None:
    files = rendered(*CASES[case]).files
    ignored = files["gateway/.dockerignore"].split()
    copied = re.findall(r"^COPY (?!--from)(.*) /\S+$", files["gateway/Dockerfile"], re.MULTILINE)
    words = [word for line in copied for word in line.split()]
    assert words == ["build.txt", "requirements.txt", "source"]
    for word in words:
        assert f"!{word}" in ignored
        assert any(path == f"gateway/{word}" or path.startswith(f"gateway/{word}/") for path in files)
