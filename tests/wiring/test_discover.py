"""Names that stand for many engines: what is asked, believed and kept, and the endpoints that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemstead.spec.fault import SpecError
from gemstead.spec.load import parse
from gemstead.spec.model import Spec
from gemstead.wiring.desired import Surroundings, desired, discovered
from gemstead.wiring.discover import Names, hosts, resolved
from gemstead.wiring.files import StateDir


class Answers:
    """A resolver that says what it is told to say."""

    def __init__(self, **said: tuple[str, ...]) -> None:
        self.said = said

    async def __call__(self, host: str) -> tuple[str, ...]:
        return self.said.get(host, ())


async def test_an_address_that_comes_or_goes_is_a_change() -> None:
    answers = Answers(engines=("10.0.0.1", "10.0.0.2"))
    names = Names(answers)
    assert await names.look(["engines"]) and names.of("engines") == ("10.0.0.1", "10.0.0.2")
    assert not await names.look(["engines"])
    answers.said["engines"] = ("10.0.0.2", "10.0.0.3")
    assert await names.look(["engines"]) and names.of("engines") == ("10.0.0.2", "10.0.0.3")


async def test_no_answer_is_not_believed() -> None:
    answers = Answers(engines=("10.0.0.1",))
    names = Names(answers)
    await names.look(["engines"])
    answers.said = {}
    assert not await names.look(["engines"])
    assert names.of("engines") == ("10.0.0.1",)


async def test_a_name_that_nobody_knows_has_no_address() -> None:
    assert await resolved("no-such-host.invalid") == ()
    assert "127.0.0.1" in await resolved("localhost")


def test_only_names_that_stand_for_many_are_asked_for() -> None:
    spec = parse(
        """
models:
  - name: mine
    endpoints:
      - {url: "http://engines:8000", discover: dns}
      - {url: "http://one:8000"}
"""
    )
    assert hosts(spec) == ["engines"]


def test_a_certificate_is_checked_for_the_name_that_stands_for_many_addresses() -> None:
    spec = parse('models: [{name: mine, endpoints: [{url: "https://engines", discover: dns}]}]')
    assert hosts(spec) == ["engines"]  # tests/wiring/test_endpoint_tls.py calls such engines


def test_certificates_of_ours_need_tls() -> None:
    with pytest.raises(SpecError, match="https://"):
        parse('models: [{name: mine, endpoints: [{url: "http://engines", tls: {ca: ca.pem}}]}]')
    with pytest.raises(SpecError, match="go together"):
        parse('models: [{name: mine, endpoints: [{url: "https://engines", tls: {certificate: a.pem}}]}]')


MANY = """
models:
  - name: mine
    endpoints: [{url: "http://engines:8000", discover: dns, dialect: vllm}]
  - name: other
    endpoints: [{url: "http://10.9.9.9:8000"}]
"""


def around(folder: Path, names: Names) -> Surroundings:
    return Surroundings(
        folder=StateDir(folder, folder),
        environ={},
        demo=False,
        fetching=lambda *_: None,
        say=lambda _: None,
        changed=lambda: None,
        in_flight=lambda _: 0,
        log_of=lambda *_: None,  # type: ignore[arg-type, return-value]
        stopped=lambda: False,
        names=names,
    )


async def test_each_address_is_an_endpoint_and_the_others_stay(tmp_path: Path) -> None:
    answers = Answers(engines=("10.0.0.1", "10.0.0.2"))
    here = around(tmp_path, Names(answers))
    spec: Spec = parse(MANY)
    wanted = await desired(spec, here)
    assert [seat.name for seat in wanted.seats] == ["mine-10-0-0-1", "mine-10-0-0-2", "other-0"]
    assert [seat.same.host for seat in wanted.seats] == ["10.0.0.1", "10.0.0.2", "10.9.9.9"]  # type: ignore[attr-defined]
    assert await discovered(spec, here, wanted) is None
    answers.said["engines"] = ("10.0.0.2", "fd00::7")
    later = await discovered(spec, here, wanted)
    assert later is not None
    same = {seat.name: seat.same for seat in wanted.seats}
    names = [seat.name for seat in later.seats]
    assert names == ["other-0", "mine-10-0-0-2", "mine-fd00--7"]
    assert all(
        seat.same == same[seat.name] for seat in later.seats if seat.name in same
    )  # those are left alone
