"""An endpoint is one engine process (or one engine that someone else runs) that can take calls.

`EndpointFacts` come from outside (the file, the supervisor); `Load` comes from the engine's own metrics;
what the gateway itself has in flight is counted here, because it is the first and the freshest signal.

The picker looks at every endpoint of a pool for every call, so whatever can be worked out when a figure
changes is worked out then (`weigh`): a look costs a few comparisons and products. `picker.py` has the theory.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from gemstead.traffic import told
from gemstead.traffic.breaker import CLOSED, Breaker
from gemstead.traffic.interference import Writing
from gemstead.traffic.prefix import BLOCK_TOKENS
from gemstead.traffic.rates import Line, Pace, Rates

if TYPE_CHECKING:
    from gemstead.traffic.call import Call
    from gemstead.traffic.roster import Roster

EndpointFacts = told.EndpointFacts  # these two are defined where they are not compiled
Load = told.Load
STALE_S: Final = 5.0  # a load older than this says nothing; five missed scrapes at one per second
KV_FULL: Final = 0.8  # KV share at which GIE's and llm-d's saturation detector call a server full
# Above this an engine preempts: no further call while another endpoint has room. Only where nobody knows how much it
# holds: else the wait until a call fits is weighed, because with shares that are a second old all calls went to the few
# that were below, and they were the next to be full.
KV_VETO: Final = 0.97
KV_MOST = (
    0.95  # of what is above `KV_FULL`; there `kv_pressure_s` stops growing, so as not to drown all others
)
KV_PRESSURE_S: Final = 0.03  # SMG 1.13's least_load: 0.15 * u / (1 - u) seconds, there from an empty cache on
# Before anything is known or foreseen. A prefill of 15 928 tokens per second is llm-d's default for a 32B model
# on two H100; half of that is between a card and a CPU. One step of a large model is 10 to 30 ms.
FIRST_PREFILL_TOKENS_S: Final = 8000.0
FIRST_STEP_S: Final = 0.02
FIRST_STEP_SLOT_S: Final = 0.0002
PREFILL_SPAN: Final = 4096.0  # tokens up to which a guess of the prefill rate is taken for good
DECODE_SPAN: Final = 64.0  # requests up to which a guess of the decode rate is
FIRST_LIFE_S: Final = 5.0
LIFE_FORGET: Final = 0.05
FIRST_PROMPT_TOKENS: Final = 1024.0  # SMG's mean prompt, until it is learned
NO_ROOM_LIMIT: Final = 1e18
KNEE: Final = (
    1.15  # plan/throughput.py: the least that doubling what runs must bring to be worth its longer wait
)
UNBOUNDED: Final = 1 << 20
MOST_WAITING: Final = 5  # queue depth at which GIE's and llm-d's saturation detector call a server full


class Exact(Protocol):
    """What hears an engine's events about its cache, and is told of the calls that it has answered."""

    def ended(self, call_id: str, call: Call, prompt_tokens: int, output_tokens: int) -> None: ...


class Others(msgspec.Struct, frozen=True, array_like=True):
    """What other gateways have in flight at an endpoint, all together."""

    calls: int = 0
    waiting: int = 0  # of them, without a first token
    prefill_tokens: int = 0
    kv_tokens: int = 0


NOBODY = Others()


class Endpoint:
    """An endpoint as one gateway worker sees it. Mutable: counters move with every call.

    `facts`, `load` and `breaker` are replaced whole; what follows from them for the picker is worked out then.
    The counters move only through `Picker.charge`, `Picker.first_token` and `Picker.settle`.
    """

    __slots__ = (
        "_breaker",
        "_facts",
        "_load",
        "adapters",
        "alone",
        "beyond",
        "cache_blocks",
        "calls_elsewhere",
        "crowd_s",
        "easy",
        "exact",
        "failed_share",
        "failures",
        "handicap",
        "head_s",
        "heard_at",
        "hears",
        "in_flight",
        "knee",
        "kv_booked",
        "kv_elsewhere",
        "kv_room",
        "life_s",
        "mean_tokens",
        "name",
        "open_from",
        "others",
        "pace",
        "patience_s",
        "prefill_elsewhere",
        "prefill_tokens",
        "probe",
        "progress_at",
        "rates",
        "read_tokens",
        "ready_since",
        "roster",
        "scraped",
        "served",
        "speaking",
        "standing_s",
        "tells_cached",
        "token_s",
        "told_at",
        "took",
        "waiting",
        "wedged",
        "well_until",
        "writing",
    )

    def __init__(self, facts: EndpointFacts, load: Load | None = None) -> None:
        self.name = facts.name  # the facts may be replaced, the name stays
        # What is in flight.
        self.in_flight = 0
        self.prefill_tokens = (
            0  # prompt tokens sent and not yet answered with a first token, deep ones dearer
        )
        self.kv_booked = 0  # tokens of KV cache that the calls in flight are expected to take
        self.waiting: dict[Call, None] = {}  # calls without a first token, the oldest first
        self.speaking = 0  # calls in flight that stream: a word may be expected of them
        self.writing = Writing()  # the answers that more reading there would disturb
        # What it did.
        self.served = 0
        self.failures = 0
        self.failed_share = 0.0  # of its calls, lately
        self.exact: Exact | None = None  # hears from the engine itself what its cache holds
        self.tells_cached = False  # with each answer, how much of the prompt it found in its cache
        self.read_tokens = 0  # prompt tokens that were not cached, since ever
        self.heard_at = -inf  # when it last said anything on any call; the gateway sets it with every piece
        self.told_at = -inf  # when the picker last learned of a first token or an end
        self.hears = False  # the gateway does set it: between those two, silence means something
        self.progress_at = -inf  # since when it works on the oldest call without a first token
        # What it can do: foreseen, and learned.
        self.knee = 0  # calls at once, beyond which only first tokens come later; 0 is unknown
        self.easy = 1  # calls there below which nobody has to look whether it has room for another
        self.took = 0  # where that is unknown: what it ran when it last let calls wait, and a few more
        self.rates = foreseen(facts)  # shared with its like in the same roster
        self.pace = Pace()
        self.life_s = FIRST_LIFE_S  # how long a call stays, on average
        self.mean_tokens = FIRST_PROMPT_TOKENS  # of a prompt that is not in the cache
        # What its own metrics add to our count.
        self.calls_elsewhere = 0
        self.prefill_elsewhere = 0.0
        self.kv_elsewhere = 0.0  # may be below zero: what is booked and not there
        self.others = NOBODY  # what other gateways say that they have there
        self.scraped = (0, 0, 0.0)  # what its metrics say beyond that and ours: calls, waiting, KV tokens
        self.beyond = (0, 0)  # calls and waiting of the metrics before those
        self.adapters: frozenset[str] | set[str] = frozenset()
        # What follows for the picker. Seconds.
        self.token_s = 0.0  # for a prompt token that is not cached
        self.standing_s = 0.0  # before a new call's prefill begins, less what has been done of it meanwhile
        self.head_s = 0.0  # of that, the call that the engine works on now
        self.crowd_s = 0.0  # for each token of a new call's answer: what it costs it and the others
        self.kv_room = NO_ROOM_LIMIT  # tokens that are free
        self.cache_blocks = 0  # blocks of a prefix that its cache can still find; 0 is unknown
        # Who may be picked.
        self.alone = False  # the only one of its pool: there is nothing to weigh
        self.roster: Roster | None = None  # told when what may be sent here changes
        self.probe: Call | None = None  # the call that tries whether the engine is back
        self.open_from = -inf  # calls may be sent from this time on
        self.well_until = inf  # the last load is fresh and good until then; no load was ever bad
        self.ready_since = -inf  # of a warm-up; -inf: not yet seen by a roster
        self.handicap = 1.0  # how much busier it is taken for than it is, while it warms up
        self.patience_s = 0.0  # how long its silence means nothing
        self.wedged = False
        self._facts = facts
        self._load: Load | None = None
        self._breaker = CLOSED
        self.facts = facts
        if load is not None:
            self.load = load

    def __repr__(self) -> str:
        return f"Endpoint({self.name} in_flight={self.in_flight} breaker={self._breaker.state})"

    @property
    def facts(self) -> EndpointFacts:
        return self._facts

    @facts.setter
    def facts(self, facts: EndpointFacts) -> None:
        was, self._facts = self._facts, facts
        if not (was.ready and not was.draining):
            self.ready_since = -inf  # it begins anew
        if speed(facts) != speed(was):
            self.rates, self.pace = foreseen(facts), Pace()
        self.cache_blocks = (facts.cache_tokens or facts.kv_tokens) // BLOCK_TOKENS
        self.knee = knee(facts)
        self.ease()
        self.open_from = self._breaker.shut_until if self.takes_calls else inf
        self.weigh()
        if self.roster is not None:
            self.roster.revise()

    @property
    def takes_calls(self) -> bool:
        """Whether the engine is ready and not draining, whatever its breaker says."""
        return self._facts.ready and not self._facts.draining

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @breaker.setter
    def breaker(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.open_from = breaker.shut_until if self.takes_calls else inf
        if self.roster is not None:
            self.roster.revise()

    @property
    def load(self) -> Load | None:
        return self._load

    @load.setter
    def load(self, load: Load | None) -> None:
        """Take in what the engine says. An older load than the last one is passed over."""
        if load is not None and self._load is not None and load.at < self._load.at:
            return
        self._load = load
        self.well_until = inf
        if load is not None:
            running, waiting = load.running or 0, load.waiting or 0
            self.scraped = self._beyond(running, waiting, load.kv_used)
            if load.adapters is not None:
                self.adapters = frozenset(load.adapters)
            full = (load.kv_used or 0.0) >= KV_VETO and not self._facts.kv_tokens
            self.well_until = -inf if full else load.at + STALE_S
            if not self.knee:
                self.took = took(self.took, running, waiting)
        else:
            self.scraped, self.beyond = (0, 0, 0.0), (0, 0)
        self._add_up()
        self.ease()
        self.weigh()
        if self.roster is not None:
            self.roster.revise()

    def hear_others(self, others: Others) -> None:
        """Take in what other gateways say that they have in flight here, all together (sharing.py)."""
        self.others = others
        self._add_up()
        self.ease()
        self.weigh()

    def _beyond(self, running: int, waiting: int, kv_used: float | None) -> tuple[int, int, float]:
        """What the metrics show beyond our calls and those that we were told of.

        Others' word is a moment older than the metrics, so where others speak, what shows only once is not believed.
        """
        others = self.others
        calls = max(0, running + waiting - self.in_flight - others.calls)
        unheard = max(0, waiting - len(self.waiting) - others.waiting)  # or ours that were preempted
        before, self.beyond = self.beyond, (calls, unheard)
        if others.calls:
            calls, unheard = min(calls, before[0]), min(unheard, before[1])
        if kv_used is None:
            return calls, unheard, 0.0
        return calls, unheard, kv_used * self._facts.kv_tokens - self.kv_booked - others.kv_tokens

    def _add_up(self) -> None:
        (calls, waiting, kv), others = self.scraped, self.others
        self.calls_elsewhere = calls + others.calls
        self.prefill_elsewhere = waiting * self.mean_tokens + others.prefill_tokens
        self.kv_elsewhere = kv + others.kv_tokens

    def is_stale(self, now: float) -> bool:
        """Whether the engine once offered metrics and has been silent for `STALE_S`."""
        return self._load is not None and now >= self._load.at + STALE_S

    def weigh(self) -> None:
        """Work out anew what a call would find here, after a figure has moved."""
        if self.alone:
            return
        self.token_s = token_s = self.rates.token_s * self.pace.times
        standing_s = (self.prefill_tokens + self.prefill_elsewhere) * token_s
        head_s = 0.0
        if (
            self.waiting
        ):  # whoever comes now is read after the step that runs, which takes more than its prompts
            step_s = self.rates.prefill.base * self.pace.times
            head_s = next(iter(self.waiting)).charged_tokens * token_s + step_s
            standing_s += step_s
        calls = self.in_flight + self.calls_elsewhere
        self.crowd_s = 2.0 * self.rates.decode.slope * self.pace.times * self.handicap * calls
        facts, load = self._facts, self._load
        if facts.slots and calls >= facts.slots:  # so many must end first
            standing_s += self.life_s * (calls - facts.slots + 1) / facts.slots
        if facts.kv_tokens:
            used = max(0.0, self.kv_booked + self.kv_elsewhere)
            self.kv_room = facts.kv_tokens - used
            standing_s += kv_pressure_s(used / facts.kv_tokens)
        elif load is not None and load.kv_used is not None:
            standing_s += kv_pressure_s(load.kv_used)
        self.standing_s, self.head_s = standing_s * self.handicap, head_s * self.handicap

    def ease(self) -> None:
        """Work out anew how many calls are too few to be looked at."""
        if self.alone and not self.calls_elsewhere:
            self.easy = self.knee or self.took or UNBOUNDED
        else:
            self.easy = 1

    def learn_prefill(self, ahead_tokens: float, seconds: float, alone: bool) -> None:
        """A first token came after `seconds`, with so much to read before it.

        `alone`: nothing else was waiting to be read, so it says how fast this engine is beside its like.
        """
        beside = self.rates.beside(ahead_tokens, seconds, self.pace.times, alone)
        if alone:
            self.pace.learn(beside)
        if self.rates.moved() and self.roster is not None:
            self.roster.weigh()


def knee(facts: EndpointFacts) -> int:
    """How many calls at once an engine gains from, by what the plan foresees; 0 is unknown.

    Twice the calls bring `KNEE` times the tokens where 2 (step + slot n) = KNEE (step + 2 slot n).
    """
    if facts.knee or not facts.decode_step_s or not facts.decode_step_slot_s:
        return facts.knee or facts.slots
    calls = int((2.0 - KNEE) / (2.0 * (KNEE - 1.0)) * facts.decode_step_s / facts.decode_step_slot_s)
    return max(1, min(calls, facts.slots) if facts.slots else calls)


def took(before: int, running: int, waiting: int) -> int:
    """How many calls an engine of unknown size should have, by what it said last. 0: no bound shows.

    An engine that lets calls wait runs as many as it can. When none waits any more it may have become roomier.
    """
    if waiting >= MOST_WAITING:
        return max(running, 1) + MOST_WAITING
    if not before or waiting:
        return before
    return before + max(1, before // 4) if before <= 2 * running + 16 else 0


def speed(facts: EndpointFacts) -> tuple[object, ...]:
    """What says how fast it is: while that stays, what was learned stays, whatever it says of its size."""
    return (
        facts.pool,
        facts.engine,
        facts.prefill_tokens_s,
        facts.decode_step_s,
        facts.decode_step_slot_s,
    )


def kind(facts: EndpointFacts) -> tuple[object, ...]:
    """What endpoints have in common that are alike as far as the plan knows."""
    return (*speed(facts), facts.slots, facts.kv_tokens)


def foreseen(facts: EndpointFacts) -> Rates:
    """The plan's figures, or guesses where there are none."""
    step_s = facts.decode_step_s or FIRST_STEP_S
    slot_s = facts.decode_step_slot_s or step_s * FIRST_STEP_SLOT_S / FIRST_STEP_S
    rate = facts.prefill_tokens_s or FIRST_PREFILL_TOKENS_S
    return Rates(
        Line(step_s, 1.0 / rate, PREFILL_SPAN, facts.prefill_tokens_s > 0.0),
        Line(step_s, slot_s, DECODE_SPAN, facts.decode_step_s > 0.0),
    )


def kv_pressure_s(kv_used: float) -> float:
    """What a KV cache that is nearly full costs, in seconds: nothing up to 0.8, 0.03 at 0.9, 0.57 from 0.99 on.

    The shape u/(1-u) is the mean wait of a queue at utilisation u. Below `KV_FULL` a fuller cache is no worse: avoiding
    it then moved conversations away from where their prefix was (docs/traffic.md).
    """
    if kv_used <= KV_FULL:
        return 0.0
    used = min((kv_used - KV_FULL) / (1.0 - KV_FULL), KV_MOST)
    return KV_PRESSURE_S * used / (1.0 - used)
