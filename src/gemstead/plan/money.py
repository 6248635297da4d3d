"""What it costs: per million tokens and per request, owned or rented, and from which volume that beats an API.

The cost of a token is the cost of the cards that really run, spares included, over the tokens that they really
write; an idle night is paid too. So the figure needs a load:

    dollars per million output tokens = dollars an hour of all cards / (output tokens a second x load x 3600) x 1e6

An API charges for tokens in and tokens out. At `in_per_out` tokens in for each one out its blended price is
(in_per_out x in + out) / (in_per_out + 1), and own hardware breaks even where a month of it costs as much:

    tokens a month = dollars a month / blended price        sustained = tokens a month / seconds a month

A break-even that no card could sustain is none: then hosting is bought for control over the data, for latency or
for independence, and the report says so. Prices move (a cloud's H100 spot price more than doubled within 2026), so
they are always arguments here, and the catalogue that they come from dates them.

A month has 730 hours. Dollars are before tax.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.catalog.prices import ApiPrice

HOURS_A_MONTH = 730.0
HOURS_A_YEAR = 8760.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill, in dollars a month."""

    what: str
    usd_month: float
    hidden: bool = False  # not on the price list of the card


@dataclass(frozen=True, slots=True)
class Bill:
    """What a group of cards costs."""

    gpus: int
    lines: tuple[Line, ...]

    @property
    def usd_month(self) -> float:
        """Everything."""
        return sum(line.usd_month for line in self.lines)

    @property
    def hidden_usd_month(self) -> float:
        """What the price list of the cards does not show."""
        return sum(line.usd_month for line in self.lines if line.hidden)

    @property
    def usd_hour(self) -> float:
        """All cards together."""
        return self.usd_month / HOURS_A_MONTH

    @property
    def usd_gpu_hour(self) -> float:
        """One card."""
        return self.usd_hour / self.gpus


@dataclass(frozen=True, slots=True)
class Owning:
    """What owning takes beside the cards. The defaults are ours, to be replaced by your own; none is a measurement."""

    years: float = 3.0  # over which the purchase is written off; 3 to 4 is usual
    rest_value: float = 0.10  # share of the purchase that it brings at the end
    host_usd_per_gpu: float = 5000.0  # server, memory, disks, network, shared by its cards
    usd_kwh: float = 0.15
    pue: float = 1.4  # of the room: cooling and losses, as a factor on power
    host_w_per_gpu: float = 150.0
    power_share: float = 0.7  # of the rated power that a busy card draws on average
    rack_usd_month_per_gpu: float = 60.0  # space, network port, remote hands
    staff_usd_year: float = 120_000.0  # one person
    staff_share: float = 0.10  # of a person, for the whole group
    upkeep: float = 0.05  # of the purchase a year: support, spare parts


def owned(gpus: int, purchase_usd: float, tdp_w: float, owning: Owning = Owning()) -> Bill:
    """The bill of cards that were bought, spares among them counted in `gpus`.

    Args:
        purchase_usd: of one card.
        tdp_w: rated power of one card.
    """
    bought = gpus * (purchase_usd + owning.host_usd_per_gpu)
    months = owning.years * 12
    watts = gpus * (tdp_w * owning.power_share + owning.host_w_per_gpu)
    power = watts / 1000 * HOURS_A_MONTH * owning.usd_kwh
    return Bill(
        gpus,
        (
            Line("cards, written off", gpus * purchase_usd * (1 - owning.rest_value) / months),
            Line(
                "hosts, written off", gpus * owning.host_usd_per_gpu * (1 - owning.rest_value) / months, True
            ),
            Line("power", power, True),
            Line("cooling and losses", power * (owning.pue - 1), True),
            Line("rack and network", gpus * owning.rack_usd_month_per_gpu, True),
            Line("support and spare parts", bought * owning.upkeep / 12, True),
            Line("staff", owning.staff_usd_year * owning.staff_share / 12, True),
        ),
    )


def rented(
    gpus: int,
    usd_gpu_hour: float,
    *,
    hours_a_month: float = HOURS_A_MONTH,
    other_usd_month: float = 0.0,
    staff_usd_month: float = 0.0,
) -> Bill:
    """The bill of cards that are rented: `hours_a_month` of each, with storage and traffic in `other_usd_month`."""
    lines = [Line("cards, rented", gpus * usd_gpu_hour * hours_a_month)]
    lines += [Line("disks, addresses, traffic", other_usd_month, True)] if other_usd_month else []
    lines += [Line("staff", staff_usd_month, True)] if staff_usd_month else []
    return Bill(gpus, tuple(lines))


@dataclass(frozen=True, slots=True)
class Spot:
    """What cards that may be taken away really cost."""

    usd_useful_hour: float  # dollars per hour in which the card answers
    available: float  # share of the time, 0 to 1
    lost_s_per_day: float  # starting again
    worth_it: bool  # cheaper per useful hour than on demand
    breaks_even_at: float  # interruptions a day at which it no longer is


def spot(usd_hour: float, on_demand_usd_hour: float, interruptions_a_day: float, restart_s: float) -> Spot:
    """What spot capacity costs per useful hour, when every interruption costs a start in which it is paid but idle.

    Args:
        restart_s: from taken away to ready: finding another machine, pulling, loading, compiling.
    """
    lost = min(86_400.0, interruptions_a_day * restart_s)
    available = 1 - lost / 86_400
    useful = usd_hour / available if available else float("inf")
    # usd / (1 - n x restart / day) = on demand
    breaks = (1 - usd_hour / on_demand_usd_hour) * 86_400 / restart_s if restart_s else float("inf")
    return Spot(useful, available, lost, useful < on_demand_usd_hour, max(0.0, breaks))


@dataclass(frozen=True, slots=True)
class Cost:
    """What answers cost at a load. Dollars."""

    usd_per_million_output: float
    usd_per_million_tokens: float  # in and out together
    usd_per_request: float
    usd_month: float
    load: float


def cost(
    bill: Bill,
    output_tokens_per_s: float,
    *,
    prompt_tokens: float,
    output_tokens: float,
    load: float = 1.0,
) -> Cost:
    """What answers cost when all cards of a bill write this many tokens a second at full load.

    Args:
        output_tokens_per_s: of all replicas that serve, at full load, from `throughput.estimate`.
        prompt_tokens, output_tokens: of one request.
        load: mean over day and night of what is used of it, above 0 to 1.

    Raises:
        ValueError: no tokens, or a load outside its bounds.
    """
    if output_tokens_per_s <= 0 or not 0 < load <= 1 or output_tokens <= 0:
        raise ValueError("a cost needs tokens a second above 0, and a load above 0 up to 1")
    per_token = bill.usd_hour / 3600 / (output_tokens_per_s * load)
    return Cost(
        usd_per_million_output=per_token * 1e6,
        usd_per_million_tokens=per_token * 1e6 * output_tokens / (prompt_tokens + output_tokens),
        usd_per_request=per_token * output_tokens,
        usd_month=bill.usd_month,
        load=load,
    )


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From which volume own hardware is cheaper than an API."""

    provider: str
    usd_per_million: float  # the API's blended price
    usd_month: float  # own
    tokens_a_month: float  # in and out together
    tokens_per_s: float  # the same, sustained day and night
    able_tokens_per_s: float  # what the hardware does, in and out together; 0: not known
    load: float  # share of it that must be used day and night; above 1: never
    verdict: str


def break_even(
    bill: Bill, price: ApiPrice, in_per_out: float = 3.0, able_output_tokens_per_s: float = 0.0
) -> BreakEven:
    """The volume at which a bill equals what an API would ask.

    Args:
        in_per_out: tokens in for each token out.
        able_output_tokens_per_s: what the hardware writes at full load with that mix; 0: not known.
    """
    blended = price.blended_usd(in_per_out)
    tokens = bill.usd_month / blended * 1e6 if blended else float("inf")
    sustained = tokens / (HOURS_A_MONTH * 3600)
    able = able_output_tokens_per_s * (in_per_out + 1)
    load = sustained / able if able else 0.0
    return BreakEven(
        price.provider,
        blended,
        bill.usd_month,
        tokens,
        sustained,
        able,
        load,
        _verdict(price.provider, tokens, sustained, able, load),
    )


def api_usd_month(price: ApiPrice, tokens_a_month: float, in_per_out: float = 3.0) -> float:
    """What an API would ask for a month's tokens, in and out together."""
    return price.blended_usd(in_per_out) * tokens_a_month / 1e6


def _verdict(provider: str, tokens: float, sustained: float, able: float, load: float) -> str:
    if tokens == float("inf"):
        return f"{provider} asks nothing: self-hosting is for control over the data, not for the price."
    volume = f"{_count(tokens)} tokens a month, {sustained:,.0f} a second day and night"
    if not able:
        return f"Cheaper than {provider} from {volume}."
    if load > 1:
        return (
            f"Never cheaper than {provider}: that would take {volume}, and this hardware does {able:,.0f}. "
            f"Self-hosting is for control over the data, latency or independence here, not for the price."
        )
    if load > 0.5:
        return (
            f"Cheaper than {provider} only from {volume}, which is {load:.0%} of what this hardware can do at all: few "
            f"services are that busy at night. Count on control and latency, not on the price."
        )
    return f"Cheaper than {provider} from {volume}: {load:.0%} of what this hardware can do."


def _count(tokens: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if tokens >= size:
            return f"{tokens / size:.3g} {word}"
    return f"{tokens:,.0f}"
