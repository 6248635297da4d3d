"""Counters on Redis or Valkey: one script for a whole batch, so that a batch is one round trip and one step.

The arithmetic is that of `traffic/window.py`, in Lua; the clock is the server's. A counter is a hash; it ends by
itself when it is as good as new. All keys share a hash tag, so on a cluster they lie on one node, which one script
needs. Redis keeps what its own persistence keeps: with `appendonly yes` and `appendfsync everysec` a crash of
the server loses at most the last second of counting.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gemstead.ledger.counters import StoreAway
from gemstead.traffic.window import SLOT_S, Batch, Cap, Grant, Standing

PREFIX: Final = "{gemstead}:limits:"
WITHIN_S: Final = 1.0
EPOCH: Final = 1_760_000_000  # times are counted from here, so that a double tells 15 ns apart
OWNER_S: Final = 3600
SCAN: Final = 500

SCRIPT: Final = """
local prefix, batch = KEYS[1], cjson.decode(ARGV[1])
local seen_key = prefix .. 'seen:' .. batch.owner
local seen = redis.call('GET', seen_key)
if seen then
  local number, answer = string.match(seen, '^(%d+) (.*)$')
  if tonumber(number) == batch.number then return answer end
end
local clock = redis.call('TIME')
local wall = tonumber(clock[1]) - tonumber(ARGV[2]) + tonumber(clock[2]) / 1e6
local slot_s = tonumber(ARGV[3])
local function text(number) return string.format('%.17g', number) end
local function read(cap)
  local key = prefix .. 'counter:' .. cap.id
  local f = redis.call('HMGET', key, 'until', 'moved', 'start', 'used', 'at')
  local s = {key = key, cap = cap, ends = tonumber(f[1] or '0'), moved = tonumber(f[2] or '0'),
    start = tonumber(f[3] or '0'), used = tonumber(f[4] or '0')}
  s.now = math.max(wall, tonumber(f[5] or '0'))
  return s
end
local function write(s)
  redis.call('HSET', s.key, 'until', text(s.ends), 'moved', text(s.moved), 'start', text(s.start),
    'used', text(s.used), 'at', text(s.now), 'cap', cjson.encode(s.cap))
  local life = 120
  if s.cap.kind == 'rate' then life = math.ceil(s.ends - s.now) + s.cap.window_s + 60 end
  if s.cap.kind == 'budget' then life = 40 * 86400 end
  redis.call('EXPIRE', s.key, math.ceil(life))
end
for _, back in ipairs(batch.backs) do
  local cap, units, tag, moved = back[1], back[2], back[3], back[4]
  local s = read(cap)
  if cap.kind == 'rate' then
    local each = cap.window_s / cap.limit
    if units < 0 then
      s.ends = math.max(s.ends, s.now) - units * each
    else
      local refund = math.min(units * each, tag - (s.moved - moved) - s.now)
      if refund > 0 then s.ends = s.ends - refund; s.moved = s.moved + refund end
    end
  elseif cap.kind == 'budget' then
    if tag > s.start then s.start = tag; s.used = 0 end
    if units < 0 then s.used = s.used - units
    elseif tag == s.start then s.used = math.max(s.used - units, 0) end
  end
  write(s)
end
local grants = {}
for _, ask in ipairs(batch.asks) do
  local cap, want, least, start = ask[1], ask[2], ask[3], ask[4]
  local s = read(cap)
  local units, tag, moved, left, wait = 0, 0, 0, 0, 0
  if cap.kind == 'rate' then
    local owed = math.max(s.ends - s.now, 0)
    local room = math.floor((cap.window_s - owed) * cap.limit / cap.window_s + 1e-6)
    units = math.min(want, room)
    if units < least or units <= 0 then
      units, left = 0, math.max(room, 0)
      wait = math.max((math.max(least, 1) - room) * cap.window_s / cap.limit, 0.001)
    else
      s.ends = math.max(s.ends, s.now) + units * cap.window_s / cap.limit
      tag, moved, left = s.ends, s.moved, room - units
    end
  elseif cap.kind == 'budget' then
    if start > s.start then s.start = start; s.used = 0 end
    local room = math.max(cap.limit - s.used, 0)
    units = math.min(want, room)
    if units < least then units = 0 end
    s.used = s.used + units
    tag, left = s.start, room - units
  else
    local others, had, mine = 0, 0, 's:' .. batch.owner
    local all = redis.call('HGETALL', s.key)
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 2) == 's:' then
        local count, ends = string.match(all[i + 1], '^(%d+) (.*)$')
        if tonumber(ends) <= s.now then redis.call('HDEL', s.key, all[i])
        elseif all[i] == mine then had = tonumber(count)
        else others = others + tonumber(count) end
      end
    end
    local most = math.max(cap.limit - others, 0)
    units = math.min(want, most)
    if units < least then units = math.min(had, want) end
    if units > 0 then redis.call('HSET', s.key, mine, string.format('%d ', units) .. text(s.now + slot_s))
    else redis.call('HDEL', s.key, mine) end
    left = math.max(most - units, 0)
  end
  write(s)
  grants[#grants + 1] = string.format('[%d,%.17g,%.17g,%d,%.17g]', units, tag, moved, left, wait)
end
local answer = '[' .. table.concat(grants, ',') .. ']'
redis.call('SET', seen_key, string.format('%d ', batch.number) .. answer, 'EX', ARGV[4])
return answer
"""

_grants = msgspec.json.Decoder(list[Grant]).decode
_cap = msgspec.json.Decoder(Cap).decode


def client(url: str, *, text: bool = True) -> Any:
    """A client for the server that a `redis://`, `rediss://`, `unix://` or `valkey://` URL names; it answers in text
    or in bytes."""
    url = url.replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
    # A lost answer is asked for again by its batch's number, so the client itself tries once.
    return redis.from_url(
        url,
        socket_timeout=WITHIN_S,
        socket_connect_timeout=WITHIN_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=text,
    )


class RedisCounters:
    """A `Counters` on the server that a `redis://`, `rediss://` or `unix://` URL names."""

    def __init__(self, url: str) -> None:
        self._client: Any = client(url)
        self._script = self._client.register_script(SCRIPT)

    async def apply(self, batch: Batch) -> list[Grant]:
        args: list[Any] = [msgspec.json.encode(batch), EPOCH, SLOT_S, OWNER_S]
        try:
            return _grants(await self._script(keys=[PREFIX], args=args))
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise StoreAway(plainly(error)) from error

    async def standings(self) -> list[Standing]:
        found = []
        try:
            seconds, micros = await self._client.time()
            now = seconds - EPOCH + micros / 1e6
            async for key in self._client.scan_iter(match=f"{PREFIX}counter:*", count=SCAN):
                fields = await self._client.hgetall(key)
                if "cap" in fields:
                    found.append(_standing(fields, now))
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise StoreAway(plainly(error)) from error
        return found

    async def reset(self, ids: list[str]) -> None:
        if not ids:
            return
        try:
            await self._client.delete(*(f"{PREFIX}counter:{one}" for one in ids))
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise StoreAway(plainly(error)) from error

    async def close(self) -> None:
        await self._client.aclose()


def _standing(fields: dict[str, str], now: float) -> Standing:
    cap = _cap(fields["cap"])
    if cap.kind == "rate":
        used = int(max(float(fields["until"]) - now, 0.0) * cap.limit / cap.window_s + 0.5)
    elif cap.kind == "budget":
        used = int(float(fields["used"]))
    else:
        slots = [value.split(" ") for name, value in fields.items() if name.startswith("s:")]
        used = sum(int(count) for count, ends in slots if float(ends) > now)
    return Standing(cap=cap, used=used, since=float(fields["start"]))


def plainly(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"Redis: {type(error).__name__}: {str(error)[:200]}".rstrip(": ")
