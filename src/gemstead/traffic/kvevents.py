"""What an engine says of its own cache, instead of what we suppose: vLLM's KV events, from their bytes.

vLLM (and what speaks like it) publishes a message for each step in which its prefix cache changed: a topic,
an eight-byte sequence number, and msgpack `[ts, [event, ...], data_parallel_rank]`. Events are arrays tagged
by their first item, or, since vLLM #42892, maps with a `type`; both are read, and what comes after the fields
that are known is passed over.

    BlockStored       blocks were written: their hashes, the block before them, the tokens in them
    BlockRemoved      blocks were evicted
    AllBlocksCleared  the cache is empty

`Cached` follows one engine's events and knows which token blocks it has, in the hashes of our own: a chain
over token ids, adapter and salt (`block_keys`), so that two engines that hash differently can be compared.
Gemma 4's hybrid cache has groups: blocks of the layers that keep everything, and of those that keep a window.
A prefix is usable as far as the full group reaches, if the sliding groups still have the last window before
that point; `match` looks at both.

The gateway does not tokenize, so a call's own tokens are known only where it was sent as token ids or a
tokenizer stands beside it. What the gateway uses instead is in `kvprompts.py`.

Subscribing, the replay socket and gaps are the caller's; a gap in the sequence is told by `take` (False), and
means that the picture must be cleared or replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

import msgspec

FULL_KINDS = frozenset({"", "full_attention", "mla_attention"})


class BadEvent(ValueError):
    """A message is not what an engine sends."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks were written, in the order of the prompt, behind `parent`."""

    hashes: tuple[int | bytes, ...]
    parent: int | bytes | None
    tokens: tuple[int, ...]
    block_tokens: int
    adapter: str = ""
    extra: tuple[Any, ...] = ()  # for each block: salt, pictures
    group: int = 0
    kind: str = ""
    window: int = 0
    medium: str = ""
    session: str = ""  # what the call was named that wrote them


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks were evicted."""

    hashes: tuple[int | bytes, ...]
    group: int = 0
    medium: str = ""


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """The cache is empty."""


Event = Stored | Removed | Cleared

_STORED = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
    "extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership",
    "session_id",
)  # fmt: skip
_REMOVED = ("block_hashes", "medium", "group_idx")


def decode(payload: bytes) -> tuple[float, list[Event], int]:
    """(time, events, data-parallel rank) of one message's payload. Events that are not known are passed over.

    Raises:
        BadEvent: it is not such a message.
    """
    try:
        batch = msgspec.msgpack.decode(payload)
        if isinstance(batch, dict):
            batch = [batch.get("ts", 0.0), batch["events"], batch.get("data_parallel_rank")]
        ts, events = float(batch[0]), batch[1]
        rank = batch[2] if len(batch) > 2 and batch[2] is not None else 0
        return ts, [event for each in events if (event := _event(each)) is not None], int(rank)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BadEvent(f"no batch of KV events: {error}") from error


def sequence(frame: bytes) -> int:
    """The number of a message, from its second frame.

    Raises:
        BadEvent: it has not eight bytes.
    """
    if len(frame) != 8:
        raise BadEvent("a sequence number has eight bytes")
    return int.from_bytes(frame, "big")


def _event(raw: Any) -> Event | None:
    if isinstance(raw, dict):
        tag, fields = raw.get("type"), raw
    else:
        tag = raw[0]
        names = _STORED if tag == "BlockStored" else _REMOVED
        fields = dict(zip(names, raw[1:], strict=False))
    if tag == "AllBlocksCleared":
        return Cleared()
    if tag == "BlockRemoved":
        return Removed(
            hashes=tuple(fields["block_hashes"]),
            group=fields.get("group_idx") or 0,
            medium=fields.get("medium") or "",
        )
    if tag != "BlockStored":
        return None
    lora = fields.get("lora_name") or (str(fields["lora_id"]) if fields.get("lora_id") is not None else "")
    return Stored(
        hashes=tuple(fields["block_hashes"]),
        parent=fields.get("parent_block_hash"),
        tokens=tuple(fields["token_ids"]),
        block_tokens=int(fields["block_size"]),
        adapter=lora,
        extra=tuple(_plain(each) for each in fields.get("extra_keys") or ()),
        group=fields.get("group_idx") or 0,
        kind=fields.get("kv_cache_spec_kind") or "",
        window=fields.get("kv_cache_spec_sliding_window") or 0,
        medium=fields.get("medium") or "",
        session=fields.get("session_id") or "",
    )


def _plain(extra: Any) -> Any:
    """What belongs to a block beside its tokens, as something that can be hashed."""
    return tuple(_plain(each) for each in extra) if isinstance(extra, list | tuple) else extra


def block_keys(
    tokens: Sequence[int], block_tokens: int, adapter: str = "", extra: Sequence[Any] = ()
) -> tuple[int, ...]:
    """Our own chained hashes of the full blocks of a token sequence; equal keys are equal beginnings."""
    keys, last = [], hash(("", adapter))
    for block in range(len(tokens) // block_tokens):
        with_it = extra[block] if block < len(extra) else None
        last = hash((last, tuple(tokens[block * block_tokens : (block + 1) * block_tokens]), with_it))
        keys.append(last)
    return tuple(keys)


class Cached:
    """What one engine (one data-parallel rank of it) has in its prefix cache, by its own word."""

    def __init__(self, most_blocks: int = 1 << 20) -> None:
        self._most = most_blocks
        self._next: int | None = None
        self._groups: dict[int, Group] = {}

    @property
    def tokens(self) -> int:
        """Tokens in the largest group that keeps everything: what the cache can find again."""
        return max((g.tokens for g in self._groups.values() if not g.window), default=0)

    def take(self, number: int, events: Iterable[Event]) -> bool:
        """Follow one message. False: messages before it are missing, and the picture was cleared."""
        whole = self._next is None or number == self._next
        if not whole:
            self._groups.clear()
        self._next = number + 1
        for event in events:
            if isinstance(event, Cleared):
                self._groups.clear()
            elif isinstance(event, Removed):
                self._group(event.group).remove(event.hashes)
            elif not event.medium or event.medium.upper() == "GPU":
                group = self._group(event.group)
                if event.kind not in FULL_KINDS:
                    group.window = event.window
                group.store(event, self._groups.values())
        if sum(len(group.keys) for group in self._groups.values()) > self._most:
            self._groups.clear()  # an engine that never evicts, or a stream of nonsense: begin anew
        return whole

    def match(self, tokens: Sequence[int], adapter: str = "", extra: Sequence[Any] = ()) -> int:
        """How many leading tokens of a prompt the engine can take from its cache."""
        full = [group for group in self._groups.values() if not group.window]
        if not full:
            return 0
        reach = min(group.reach(tokens, adapter, extra) for group in full)
        sliding = [group for group in self._groups.values() if group.window]
        sizes = [group.block_tokens for group in full]
        step = max([*sizes, *(group.block_tokens for group in sliding)])
        reach -= reach % step
        while reach > 0 and not all(group.has_window(tokens, reach, adapter, extra) for group in sliding):
            reach -= step
        return reach

    def _group(self, number: int) -> Group:
        if (group := self._groups.get(number)) is None:
            self._groups[number] = group = Group()
        return group


class Group:
    """The blocks of one group of layers."""

    __slots__ = ("block_tokens", "held", "keys", "window")

    def __init__(self) -> None:
        self.block_tokens = 16
        self.window = 0  # of sliding layers; 0: they keep everything
        self.keys: dict[int | bytes, int] = {}  # the engine's hash: ours
        self.held: dict[int, int] = {}  # ours: how often

    @property
    def tokens(self) -> int:
        """Tokens that are cached."""
        return len(self.keys) * self.block_tokens

    def store(self, event: Stored, groups: Iterable[Group]) -> None:
        """Blocks were written. Their parent may be gone from this group and still be in another."""
        self.block_tokens = size = event.block_tokens
        last: int | None = hash(("", event.adapter))
        if event.parent is not None:
            last = self.keys.get(event.parent)
            for group in groups:
                if last is None and group.block_tokens == size:
                    last = group.keys.get(event.parent)
        if last is None or size < 1:
            return  # behind a block that we never heard of: it cannot be placed
        for place, name in enumerate(event.hashes):
            tokens = event.tokens[place * size : (place + 1) * size]
            if len(tokens) < size:
                return
            extra = event.extra[place] if place < len(event.extra) else None
            last = hash((last, tokens, extra))
            if name not in self.keys:
                self.keys[name] = last
                self.held[last] = self.held.get(last, 0) + 1

    def remove(self, names: Iterable[int | bytes]) -> None:
        """Blocks were evicted."""
        for name in names:
            if (key := self.keys.pop(name, None)) is not None:
                if self.held[key] == 1:
                    del self.held[key]
                else:
                    self.held[key] -= 1

    def reach(self, tokens: Sequence[int], adapter: str, extra: Sequence[Any]) -> int:
        """How many leading tokens are cached without a gap."""
        for count, key in enumerate(block_keys(tokens, self.block_tokens, adapter, extra)):
            if key not in self.held:
                return count * self.block_tokens
        return len(tokens) // self.block_tokens * self.block_tokens

    def has_window(self, tokens: Sequence[int], reach: int, adapter: str, extra: Sequence[Any]) -> bool:
        """Whether the blocks are there that hold the window before `reach`."""
        keys = block_keys(tokens[:reach], self.block_tokens, adapter, extra)
        needed = min(len(keys), ceil(max(self.window - 1, 1) / self.block_tokens))
        return all(key in self.held for key in keys[len(keys) - needed :])
