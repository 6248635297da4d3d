"""Traces as others publish them, from their text: Mooncake, Azure, ServeGen and BurstGPT, coding agents, our own log.

A reader is given the lines of a file and makes a `Workload`; opening and unpacking is the caller's. Which form a file
has is seen from its first line. What a form does not say is left out, never guessed: Azure and ServeGen have no prompts
that share a beginning.

    Mooncake   {"timestamp": ms, "input_length", "output_length", "hash_ids": one for each 512 tokens}    JSON lines
    agents     {"session", "block_size", "requests": [{"t", "in", "out", "think_s", "hash_ranges"}]}       JSON lines
    our log    {"began", "tenant", "prompt_tokens", "output_tokens", "cached_tokens", ...}                 JSON lines
    ServeGen   t_s,client,input_tokens,output_tokens                                                       CSV
    Azure      t_s,input_tokens,output_tokens, or TIMESTAMP,ContextTokens,GeneratedTokens                  CSV
    BurstGPT   Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type                        CSV

Mooncake's conversations arrive in lumps of three seconds, an artefact of how they were recorded: each lump is spread
evenly over its three seconds. The last block of a prompt is only partly filled and can never be found again, so its id
is dropped. Agents' requests follow each other: the next one comes when the last has been answered and thought about.
Blocks of agents (64 tokens) are joined to blocks of 512: an id stands for everything before it, so the last of eight
stands for the eight.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.simulate.workload import BLOCK_TOKENS, Request, Workload

LUMP_S = 3.0


def read(lines: Iterable[str], name: str = "trace") -> Workload:
    """The workload that these lines hold.

    Raises:
        Refused: BAD_REQUEST, when the form is unknown or a line does not keep to it.
    """
    lines = (line for line in lines if line.strip())
    first = next(iter(lines), "")
    every = chain([first], lines)
    try:
        is_json = first.lstrip().startswith("{")
        requests = _json(json.loads(first), every) if is_json else _csv(first, every)
    except (KeyError, ValueError, TypeError) as error:
        raise _bad(name, f"a line does not keep to the form ({error!r})") from error
    if not requests:
        raise _bad(name, "there is no request in it")
    return Workload(name, tuple(_ordered(requests)), BLOCK_TOKENS)


def _bad(name: str, why: str) -> Refused:
    forms = "Mooncake, Azure, ServeGen, BurstGPT, agent sessions, or Gemstead's audit log"
    return Refused(Reason.BAD_REQUEST, f"{name} cannot be read as a trace: {why}. Known forms: {forms}.")


def _json(first: Mapping[str, Any], lines: Iterable[str]) -> list[Request]:
    rows = map(json.loads, lines)
    if "hash_ids" in first:
        return _mooncake(rows)
    if "requests" in first:
        return list(_agents(rows))
    if "began" in first:
        return _log(rows)
    raise ValueError("its fields are unknown: " + ", ".join(list(first)[:6]))


def _mooncake(rows: Iterable[Mapping[str, Any]]) -> list[Request]:
    kept = [
        (row["timestamp"] / 1000, row["input_length"], row["output_length"], row["hash_ids"]) for row in rows
    ]
    kept.sort(key=lambda row: row[0])
    lumps: dict[float, int] = {}
    for at_s, *_ in kept:
        lumps[at_s] = lumps.get(at_s, 0) + 1
    lumped = len(kept) > 3 * len(lumps) and all(at_s % LUMP_S == 0 for at_s in lumps)
    seen: dict[float, int] = {}
    requests = []
    for at_s, prompt, output, ids in kept:
        seen[at_s] = place = seen.get(at_s, -1) + 1
        spread = LUMP_S * place / lumps[at_s] if lumped else 0.0
        blocks = tuple(ids[: prompt // BLOCK_TOKENS])
        requests.append(Request(at_s + spread, max(prompt, 1), max(output, 1), blocks))
    return requests


def _agents(rows: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
    """Sessions one after the other; each session's ids are made its own. They begin evenly over an hour."""
    sessions = list(rows)
    base, number = 0, 0
    for turn, session in enumerate(sessions):
        join = BLOCK_TOKENS // session["block_size"]
        names: dict[int, int] = {}
        start_s = 3600.0 * turn / len(sessions)
        for place, one in enumerate(session["requests"]):
            ids = chain.from_iterable(range(low, low + count) for low, count in one["hash_ranges"])
            whole = islice(ids, join - 1, None, join)
            blocks = tuple(base + names.setdefault(block, len(names)) for block in whole)
            blocks = blocks[: one["in"] // BLOCK_TOKENS]
            after = number - 1 if place else -1
            think_s = float(one.get("think_s") or 0.0) if place else 0.0
            tenant = str(session["session"])
            yield Request(start_s, max(one["in"], 1), max(one["out"], 1), blocks, tenant, 0, after, think_s)
            number += 1
        base += len(names)


def _log(rows: Iterable[Mapping[str, Any]]) -> list[Request]:
    """Calls of the audit log. Of what was cached it knows only how much, so nothing is shared in the replay."""
    kept = [row for row in rows if row.get("prompt_tokens") and row.get("output_tokens")]
    first = min((row["began"] for row in kept), default=0.0)
    return [
        Request(
            row["began"] - first,
            row["prompt_tokens"],
            row["output_tokens"],
            (),
            row.get("tenant") or "default",
        )
        for row in kept
    ]


COLUMNS = {
    "t_s": "at", "timestamp": "at", "arrival_s": "at", "client": "tenant", "client_id": "tenant",
    "input_tokens": "prompt", "contexttokens": "prompt", "request tokens": "prompt",
    "output_tokens": "output", "generatedtokens": "output", "response tokens": "output",
}  # fmt: skip


def _csv(first: str, lines: Iterable[str]) -> list[Request]:
    names = [COLUMNS.get(cell.strip().lower(), "") for cell in next(csv.reader([first]))]
    if not {"at", "prompt", "output"} <= set(names):
        raise ValueError("no columns for the time, the prompt's and the answer's tokens")
    at, prompt, output = names.index("at"), names.index("prompt"), names.index("output")
    tenant = names.index("tenant") if "tenant" in names else -1
    requests = []
    for row in islice(csv.reader(lines), 1, None):
        if int(row[output]) < 1 or int(row[prompt]) < 1:
            continue  # BurstGPT: calls that failed
        who = row[tenant] if tenant >= 0 else "default"
        requests.append(Request(_seconds(row[at]), int(row[prompt]), int(row[output]), (), who))
    first_s = min((one.at_s for one in requests), default=0.0)
    return [replace(one, at_s=one.at_s - first_s) for one in requests]


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()[:26]).timestamp()


def _ordered(requests: list[Request]) -> list[Request]:
    """By time, with `after` pointing to the new places."""
    order = sorted(range(len(requests)), key=lambda place: (requests[place].at_s, place))
    new = {old: place for place, old in enumerate(order)}
    return [
        replace(requests[old], after=new[requests[old].after]) if requests[old].after >= 0 else requests[old]
        for old in order
    ]
