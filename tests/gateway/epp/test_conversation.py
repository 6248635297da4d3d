"""The protocol, message by message: what a gateway says, and what it is told. No socket, no Envoy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("envoy.service.ext_proc.v3", reason="needs gemstead[epp]")

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gemstead.gateway.epp import names, wire
from gemstead.gateway.epp.conversation import Conversation
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.epp.rules import Rules
from gemstead.gateway.epp.settings import DeskSettings
from gemstead.gateway.figures import Figures
from gemstead.observe.metrics import Registry
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.queue import QueueBounds

BODY = b'{"model":"gemma","messages":[{"role":"user","content":"hello there"}],"stream":true}'
EVENT = 'data: {{"choices":[{{"index":0,"delta":{{"content":"{}"}}}}]}}\n\n'
USAGE = (
    'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14,'
    '"prompt_tokens_details":{"cached_tokens":4}}}\n\ndata: [DONE]\n\n'
)
ANSWER = ("".join(EVENT.format(word) for word in ("a", "b", "c")) + USAGE).encode()


def desk_of(count: int = 2, *, slots: int = 0, context: int = 0, **more: Any) -> Desk:
    choose = Random(1).randrange
    desk = Desk(DeskSettings(**more), Picker(PrefixIndex(), choose), choose, Figures(Registry()))
    facts = [
        EndpointFacts(
            name=f"e{n}", pool="pool", host=f"10.0.0.{n + 1}", port=8000, slots=slots, context_tokens=context
        )
        for n in range(count)
    ]
    desk.fleet(facts, monotonic())
    return desk


def request_head(
    headers: dict[str, str] | None = None,
    *,
    ended: bool = False,
    mode: tuple[int, int] | None = None,
    subset: Any = None,
) -> bytes:
    message = ext_proc.ProcessingRequest()
    given = {":method": "POST", ":path": "/v1/chat/completions", "x-request-id": "r1", **(headers or {})}
    for name, value in given.items():
        header = message.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    message.request_headers.end_of_stream = ended
    if mode is not None:
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = mode
    if subset is not None:
        struct = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        struct.update({"x-gateway-destination-endpoint-subset": subset})
    return message.SerializeToString()


def request_body(data: bytes, *, ended: bool = True) -> bytes:
    message = ext_proc.ProcessingRequest()
    message.request_body.body, message.request_body.end_of_stream = data, ended
    return message.SerializeToString()


def trailers(which: str) -> bytes:
    message = ext_proc.ProcessingRequest()
    getattr(message, which).SetInParent()
    return message.SerializeToString()


def answer_head(
    status: str = "200", kind: str = "text/event-stream", served: str = "", ended: bool = False
) -> bytes:
    message = ext_proc.ProcessingRequest()
    for name, value in ((":status", status), ("content-type", kind)):
        header = message.response_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    message.response_headers.end_of_stream = ended
    if served:
        struct = message.metadata_context.filter_metadata["envoy.lb"]
        struct.update({"x-gateway-destination-endpoint-served": served})
    return message.SerializeToString()


def answer_body(data: bytes, *, ended: bool = False) -> bytes:
    message = ext_proc.ProcessingRequest()
    message.response_body.body, message.response_body.end_of_stream = data, ended
    return message.SerializeToString()


def said(raw: Sequence[bytes]) -> list[Any]:
    return [ext_proc.ProcessingResponse.FromString(one) for one in raw]


def set_headers(response: Any) -> dict[str, str]:
    options = response.response.header_mutation.set_headers
    return {option.header.key: option.header.raw_value.decode() for option in options}


def begun(desk: Desk, body: bytes = BODY, headers: dict[str, str] | None = None, **more: Any) -> Conversation:
    talk = Conversation(desk)
    assert talk.take(request_head(headers, **more)) == []
    talk.take(request_body(body))
    return talk


def empty(desk: Desk) -> bool:
    return len(desk.queue) == 0 and all(
        (e.in_flight, e.prefill_tokens, e.kv_booked, e.speaking, len(e.waiting)) == (0, 0, 0, 0, 0)
        for e in desk.endpoints
    )


def outcomes(desk: Desk) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, numbers in desk.figures.registry.snapshot()["gemstead_requests_total"].items():
        outcome = labels.split('outcome="')[1].split('"')[0]
        found[outcome] = found.get(outcome, 0.0) + numbers[0]
    return found


# -- the request ------------------------------------------------------------------------------------------------------


def test_the_heads_answer_waits_for_the_body_and_says_where_by_header_and_metadata():
    desk = desk_of()
    talk = Conversation(desk)
    assert talk.take(request_head()) == []
    assert talk.take(request_body(BODY[:20], ended=False)) == []
    head, body = said(talk.take(request_body(BODY[20:])))
    headers = set_headers(head.request_headers)
    first, second = headers["x-gateway-destination-endpoint"].split(",")
    assert {first, second} == {"10.0.0.1:8000", "10.0.0.2:8000"}
    metadata = head.dynamic_metadata["envoy.lb"]
    assert metadata["x-gateway-destination-endpoint"] == f"{first},{second}"
    assert head.request_headers.response.clear_route_cache
    streamed = body.request_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (BODY, True)
    picked = desk.endpoint_at(first)
    assert picked is not None and picked.in_flight == 1


def test_a_gateway_that_reads_one_address_gets_one():
    desk = desk_of(4, fallbacks=0)
    (head, _) = said([*Conversation(desk).take(request_head(ended=True)), wire.GO_ON["request_body"]])
    assert "," not in set_headers(head.request_headers)["x-gateway-destination-endpoint"]


@given(st.lists(st.integers(0, len(BODY) * 3000)), st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_how_a_body_is_cut_never_matters(cuts: list[int], times: int):
    body = BODY.replace(b"hello there", b"hello " * times)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = [body[a:b] for a, b in pairwise(places)]
    talk = Conversation(desk_of())
    out = talk.take(request_head())
    for number, piece in enumerate(pieces):
        out += talk.take(request_body(piece, ended=number == len(pieces) - 1))
    _, *sent = said(out)
    parts = [one.request_body.response.body_mutation.streamed_response for one in sent]
    assert b"".join(part.body for part in parts) == body
    assert [part.end_of_stream for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(part.body) <= wire.PIECE_BYTES for part in parts)


def test_a_request_that_ends_with_trailers_goes_on_with_them():
    talk = Conversation(desk_of())
    assert talk.take(request_head()) == []
    assert talk.take(request_body(BODY, ended=False)) == []
    head, body, end = said(talk.take(trailers("request_trailers")))
    assert set_headers(head.request_headers)["x-gateway-destination-endpoint"]
    assert not body.request_body.response.body_mutation.streamed_response.end_of_stream
    assert end.WhichOneof("response") == "request_trailers"


def test_a_gateway_that_buffers_is_told_with_the_body():
    talk = Conversation(desk_of())
    (go_on,) = said(talk.take(request_head(mode=(wire.BUFFERED, wire.STREAMED))))
    assert go_on.WhichOneof("response") == "request_headers" and not set_headers(go_on.request_headers)
    (chosen,) = said(talk.take(request_body(BODY)))
    assert set_headers(chosen.request_body)["x-gateway-destination-endpoint"]
    assert not chosen.request_body.response.HasField("body_mutation")
    (head,) = said(talk.take(answer_head()))
    assert head.WhichOneof("response") == "response_headers"
    (piece,) = said(talk.take(answer_body(ANSWER, ended=True)))
    assert not piece.response_body.response.HasField("body_mutation")


@pytest.mark.parametrize("mode", [(wire.NONE, wire.NONE), (wire.STREAMED, wire.STREAMED)])
def test_without_a_body_the_head_decides(mode):
    talk = Conversation(desk_of())
    (head,) = said(talk.take(request_head(mode=mode)))
    assert set_headers(head.request_headers)["x-gateway-destination-endpoint"]
    (go_on,) = said(talk.take(request_body(BODY)))
    assert not set_headers(go_on.request_body)


@pytest.mark.parametrize(
    "subset",
    [["10.0.0.3:8000"], "10.0.0.3:8000", "10.0.0.3:8000, 10.9.9.9:1", ["10.0.0.3:8000", "1.1.1.1:1"]],
)
def test_only_the_subset_is_picked_from(subset):
    for _ in range(4):
        talk = Conversation(desk_of(4))
        talk.take(request_head(subset=subset))
        head, _ = said(talk.take(request_body(BODY)))
        assert set_headers(head.request_headers)["x-gateway-destination-endpoint"] == "10.0.0.3:8000"


@pytest.mark.parametrize("subset", [[], ["1.1.1.1:1"], ""])
def test_a_subset_with_nobody_in_it_is_a_503(subset):
    talk = Conversation(desk_of(queue=QueueBounds(starting_wait_s=60.0)))
    talk.take(request_head(subset=subset))
    (no,) = said(talk.take(request_body(BODY)))
    assert no.immediate_response.status.code == 503
    headers = {o.header.key: o.header.raw_value for o in no.immediate_response.headers.set_headers}
    assert headers["x-llm-d-request-dropped-reason"] == b"rejected-no-endpoints"
    assert talk.over


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"model": "m"}', 400, "messages"),
        (b"{", 400, "not valid JSON"),
        (b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 40_000 + b'"}]}', 413, "larger"),
        (b'{"model":"m","messages":[{"role":"user","content":"' + b"x " * 15_000 + b'"}]}', 400, "tokens"),
    ],
)
def test_what_no_engine_could_serve_is_refused_in_the_clients_words(body, status, says):
    desk = desk_of(context=1000, body_bytes=35_000)
    talk = Conversation(desk)
    talk.take(request_head())
    (no,) = said(talk.take(request_body(body)))
    assert no.immediate_response.status.code == status
    assert says in json.loads(no.immediate_response.body)["error"]["message"]
    talk.left()
    assert empty(desk)


@pytest.mark.parametrize(("media", "refused"), [("refuse", True), ("engine", False)])
def test_an_address_of_a_medium_reaches_an_engine_only_when_the_file_says_so(media, refused):
    picture = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/"}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [picture]}]}).encode()
    desk = desk_of(media=media)
    talk = Conversation(desk)
    talk.take(request_head())
    first = said(talk.take(request_body(body)))[0]
    assert first.HasField("immediate_response") is refused
    if refused:
        assert first.immediate_response.status.code == 400
        assert json.loads(first.immediate_response.body)["error"]["code"] == "media_address"
    talk.left()
    assert empty(desk)


@pytest.mark.parametrize(
    "names",
    [
        ("x-llm-d-inference-objective", "x-llm-d-inference-fairness-id"),
        ("x-gateway-inference-objective", "x-gateway-inference-fairness-id"),
    ],
)
def test_objective_and_fairness_are_read_under_their_old_names_too(names):
    desk = desk_of()
    desk.rules = Rules(objectives={"batch": -5})
    talk = begun(desk, headers={names[0]: "batch", names[1]: "team-a", "x-session-id": "s"})
    assert talk.call is not None
    assert (talk.call.priority, talk.call.tenant, talk.call.session) == (-5, "team-a", "s")


@pytest.mark.parametrize("name", ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
def test_a_gateways_own_rewrite_counts(name):
    talk = Conversation(desk_of())
    talk.take(request_head({name: "google/gemma-4-31B-it"}))
    _, body = said(talk.take(request_body(BODY)))
    sent = json.loads(body.request_body.response.body_mutation.streamed_response.body)
    assert sent == {**json.loads(BODY), "model": "google/gemma-4-31B-it"}


@pytest.mark.parametrize("mode", [None, (wire.BUFFERED, wire.STREAMED)])
def test_nobody_outside_tells_a_pods_proxy_where_to_connect_to(mode):
    talk = Conversation(desk_of())
    out = talk.take(request_head(mode=mode)) + talk.take(request_body(BODY))
    (chosen,) = [r for one in said(out) if (r := getattr(one, one.WhichOneof("response"))) and set_headers(r)]
    removed = set(chosen.response.header_mutation.remove_headers)
    assert {"x-prefiller-host-port", "x-encoder-hosts-ports", "x-data-parallel-host-port"} <= removed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1500ms", 1.5), ("1m30s", 90.0), (".5s", 0.5), ("2h", 7200.0), ("250us", 0.00025), ("0s", None)]
    + [(wrong, None) for wrong in ("", "5", "-1s", "1 s", "s", "1d", "1m30", "1s" * 9)],
)
def test_durations_as_go_writes_them(text, seconds):
    assert names.duration_s(text) == pytest.approx(seconds) if seconds else names.duration_s(text) is None


def test_a_call_waits_no_longer_than_it_says_and_is_told_how_long_it_has_waited():
    desk = desk_of(1, slots=1)
    running = begun(desk)
    short, long = (begun(desk, headers={"x-llm-d-inference-ttl": ttl}) for ttl in ("1500ms", "30s"))
    assert short.waiting is not None and long.waiting is not None
    woken: list[str] = []
    short.woken, long.woken = (lambda: woken.append("short")), (lambda: woken.append("long"))
    desk.sweep(monotonic() + 2.0)
    assert woken == ["short"]
    (no,) = said(short.turn())
    assert no.immediate_response.status.code == 429
    assert no.immediate_response.details == "rejected-ttl-expired"
    running.take(answer_head("200", "application/json"))
    running.take(answer_body(b"{}", ended=True))
    assert woken == ["short", "long"]
    long.turn()
    (head,) = said(long.take(answer_head()))
    assert int(set_headers(head.response_headers)["x-llm-d-flow-queue-duration-ms"]) >= 0
    long.left()
    assert empty(desk)


def test_prompts_that_begin_alike_go_where_the_first_one_went():
    desk = desk_of(8)
    body = BODY.replace(b"hello there", b"the same long beginning " * 400)
    went = set()
    for _ in range(4):
        talk = begun(desk, body)
        assert talk.call is not None and talk.call.charged_to is not None
        went.add(talk.call.charged_to.name)
        talk.left()  # before an answer that would teach how quickly prompts are read
    assert len(went) == 1


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b""])
def test_what_is_no_message_is_said_to_be_none(raw):
    with pytest.raises(wire.BadMessage):
        Conversation(desk_of()).take(raw)


def test_messages_out_of_order_do_no_harm():
    desk = desk_of()
    talk = Conversation(desk)
    for message in (
        answer_body(b"x"),
        request_body(b"x"),
        trailers("response_trailers"),
        trailers("request_trailers"),
    ):
        assert len(said(talk.take(message))) == 1
    talk.take(request_head())
    with pytest.raises(wire.BadMessage):
        talk.take(request_head())
    talk.left()
    assert empty(desk)


# -- the answer -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, len(ANSWER))))
@settings(max_examples=40, deadline=None)
def test_how_an_answer_is_cut_never_matters(cuts: list[int]):
    desk = desk_of()
    talk = begun(desk)
    talk.take(answer_head())
    places = sorted({0, len(ANSWER), *cuts})
    pieces = [ANSWER[a:b] for a, b in pairwise(places)]
    out = []
    for number, piece in enumerate(pieces):
        out += talk.take(answer_body(piece, ended=number == len(pieces) - 1))
    parts = [one.response_body.response.body_mutation.streamed_response for one in said(out)]
    assert b"".join(part.body for part in parts) == ANSWER
    assert parts[-1].end_of_stream
    record = talk.record
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (11, 4, 3)
    assert record.tokens_from == "engine" and record.outcome == "served"
    assert empty(desk)


def test_an_answer_that_ends_with_trailers_is_settled_by_them():
    desk = desk_of()
    talk = begun(desk)
    talk.take(answer_head())
    talk.take(answer_body(ANSWER))
    (end,) = said(talk.take(trailers("response_trailers")))
    assert end.WhichOneof("response") == "response_trailers"
    assert empty(desk) and outcomes(desk) == {"served": 1.0}


def test_usage_of_an_answer_that_does_not_stream_is_read():
    desk = desk_of()
    talk = begun(desk, BODY.replace(b"true", b"false"))
    talk.take(answer_head(kind="application/json"))
    whole = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}}'
    talk.take(answer_body(whole[:30]))
    talk.take(answer_body(whole[30:], ended=True))
    assert (talk.record.prompt_tokens, talk.record.output_tokens) == (7, 9)


def test_the_books_move_to_whoever_has_really_answered():
    desk = desk_of()
    talk = begun(desk)
    assert talk.call is not None
    first = talk.call.charged_to
    other = next(e for e in desk.endpoints if e is not first)
    talk.take(answer_head(served=f"{other.facts.host}:8000"))
    assert first is not None
    assert (first.in_flight, first.failures, other.in_flight) == (0, 1, 1)
    talk.take(answer_body(ANSWER, ended=True))
    assert (other.served, other.failures, talk.record.endpoint, talk.record.attempts) == (1, 0, other.name, 2)
    assert empty(desk)


@pytest.mark.parametrize(
    ("status", "outcome", "failures"),
    [
        ("200", "served", 0),
        ("404", "upstream_refused", 0),
        ("500", "upstream_failed", 1),
        ("503", "upstream_failed", 1),
    ],
)
def test_what_an_answers_status_means_for_its_endpoint(status, outcome, failures):
    desk = desk_of()
    talk = begun(desk)
    talk.take(answer_head(status, "application/json"))
    talk.take(answer_body(b"{}", ended=True))
    assert outcomes(desk) == {outcome: 1.0}
    assert sum(e.failures for e in desk.endpoints) == failures


def test_a_stream_without_its_end_was_cut():
    desk = desk_of()
    talk = begun(desk)
    talk.take(answer_head())
    talk.take(answer_body(EVENT.format("a").encode(), ended=True))
    assert outcomes(desk) == {"cut": 1.0}


# -- whenever it ends, the books are right ---------------------------------------------------------------------------

STORY = [
    request_head(),
    request_body(BODY[:30], ended=False),
    request_body(BODY[30:]),
    answer_head(),
    answer_body(ANSWER[:100]),
    answer_body(ANSWER[100:], ended=True),
]


@given(
    st.lists(st.tuples(st.integers(0, len(STORY)), st.sampled_from(["", "t1", "t2"])), max_size=12),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_charges_return_to_zero_however_calls_end(calls: list[tuple[int, str]], random: Random):
    """Calls are told in turn, each as far as it goes; with two slots, most of them wait at some time."""
    desk = desk_of(1, slots=2, queue=QueueBounds(requests=3))
    talks = []
    for length, tenant in calls:
        story = [request_head({"x-llm-d-inference-fairness-id": tenant}), *STORY[1:]][:length]
        talks.append((Conversation(desk), story))
    told = 0
    while talks:
        talk, story = talks[random.randrange(len(talks))]
        if story and talk.waiting is None and not talk.over:
            talk.take(story.pop(0))
        elif talk.waiting is None or talk.waiting.gone or random.random() < 0.2:
            if talk.waiting is not None and talk.waiting.gone:
                talk.turn()
                continue
            talk.left()
            talks = [one for one in talks if one[0] is not talk]
            told += 1
    assert empty(desk)
    assert sum(outcomes(desk).values()) == told
    assert desk.figures.in_flight.numbers == [0.0]


def test_who_waits_gets_their_turn_when_an_answer_ends_the_important_first():
    desk = desk_of(1, slots=1)
    desk.rules = Rules(objectives={"high": 5})
    first, low, high = begun(desk), begun(desk), begun(desk, headers={"x-llm-d-inference-objective": "high"})
    assert first.waiting is None and low.waiting is not None and high.waiting is not None
    woken: list[str] = []
    low.woken, high.woken = (lambda: woken.append("low")), (lambda: woken.append("high"))
    first.take(answer_head())
    first.take(answer_body(ANSWER, ended=True))
    assert woken == ["high"]
    head, _ = said(high.turn())
    assert set_headers(head.request_headers)["x-gateway-destination-endpoint"] == "10.0.0.1:8000"
    high.left()
    assert woken == ["high", "low"]


def test_while_nobody_is_ready_calls_may_wait_for_an_engine_to_start():
    desk = desk_of(1, queue=QueueBounds(starting_wait_s=60.0))
    facts = desk.endpoints[0].facts
    desk.fleet([], monotonic())
    talk = begun(desk)
    assert talk.waiting is not None
    desk.fleet([facts], monotonic())
    head, _ = said(talk.turn())
    assert set_headers(head.request_headers)["x-gateway-destination-endpoint"] == "10.0.0.1:8000"


def test_at_the_end_whoever_still_waits_is_told():
    desk = desk_of(1, slots=1)
    begun(desk)
    talk = begun(desk)
    desk.draining = True
    desk.turn_all_away(monotonic())
    (no,) = said(talk.turn())
    headers = {o.header.key: o.header.raw_value for o in no.immediate_response.headers.set_headers}
    assert headers["x-llm-d-request-dropped-reason"] == b"rejected-shutting-down"
