"""Files and batches in a store, and who works on a batch: the form of `ledger/batches.py` that gateways share.

A batch is held by one gateway at a time: its row says by whom, until when (by the server's clock), and how often it was
taken up, its *turn*. The holder says every `keep_up` that it lives; when it has said nothing for the length of a lease,
any other may `claim` the batch, with another turn. Whatever a holder writes is written together with a look at holder
and turn in the same transaction, so one that was thought dead and is not writes nothing any more: it is `Lost`. A lease
that has run out and that nobody took is its holder's still.

Answers (`add_answers`) are blocks of records as `ledger/resultlog.py` writes them. Those that are here when a holder
dies are what the next one goes on from; they are removed in the transaction that ends the batch, which keeps the
files of its answers. Whoever looks at a batch sees how far it was when its last answers came (`progress`).

One that wants a batch cancelled writes that down (`ask_cancel`); the holder reads it with its next `keep_up`. Until
then it is shown as if it had been done, since nothing but its end can come between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from gemstead.ledger.batches import Held, Lost, Seen, StoreFull
from gemstead.ledger.postgres.link import Link, Row, kept
from gemstead.ledger.postgres.links import Links
from gemstead.ledger.postgres.parts import NOW, Parts
from gemstead.openai.batches import Batch, CancelAsked, Counts, Usage, step
from gemstead.openai.files import File, Page
from gemstead.traffic.caller import Caller

FILES_LOCK = 0x67656D7366  # of pg_advisory_xact_lock: files are counted and added by one at a time
LAPSED_S = 5.0  # beyond a lease, before it is said that nobody holds the batch
NOBODY = "no gateway works on it at the moment; one takes it up within seconds"

_file = msgspec.json.Decoder(File).decode
_batch = msgspec.json.Decoder(Batch).decode
_caller = msgspec.json.Decoder(Caller).decode


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is, as its holder last said."""

    counts: Counts = Counts()
    usage: Usage = Usage()
    paused: str = ""


_progress = msgspec.json.Decoder(Progress).decode

_SEEN = f"row, progress, cancel_asked, lease_until, {NOW}"
_INSERT_FILE = (
    "INSERT INTO gemstead_files (file_id, tenant, purpose, expires_at, bytes, row) VALUES ($1, $2, $3, $4, $5, $6) "
    "ON CONFLICT (file_id) DO NOTHING"
)
_INSERT_BATCH = (
    "INSERT INTO gemstead_batches (batch_id, tenant, input_file_id, ended_at, caller, row, holder, turn, lease_until) "  # noqa: S608
    f"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {NOW} + $9) ON CONFLICT (batch_id) DO NOTHING"
)
_CLAIM = f"""WITH free AS (
    SELECT seq, holder FROM gemstead_batches
    WHERE ended_at = 0 AND (lease_until < {NOW} OR holder = $1) AND NOT batch_id = ANY($2::text[])
    ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)
UPDATE gemstead_batches b SET holder = $1, turn = turn + 1, lease_until = {NOW} + $4 FROM free
WHERE b.seq = free.seq RETURNING b.row, b.caller, b.turn, free.holder, b.cancel_asked"""  # noqa: S608
_KEEP_UP = f"""UPDATE gemstead_batches b SET lease_until = {NOW} + $4,
    progress = (coalesce(nullif(progress, ''), '{{}}')::jsonb || jsonb_build_object('paused', said.paused))::text
FROM unnest($2::text[], $3::bigint[], $5::text[]) AS said(batch_id, turn, paused)
WHERE b.batch_id = said.batch_id AND b.turn = said.turn AND b.holder = $1 RETURNING b.batch_id, b.cancel_asked"""  # noqa: S608


class PostgresBatches:
    """`Batches` in a store, and their bytes. Any thread may call."""

    def __init__(
        self,
        url: Callable[[], str],
        secret: Callable[[], str],
        holder: str,
        *,
        lease_s: float = 10.0,
        most_bytes: int = 1 << 62,
    ) -> None:
        """`holder`: what nobody else is called; `most_bytes`: of all files together."""
        self.links = Links(url)
        self.parts = Parts(self.links, secret)
        self.holder, self.lease_s, self._most_bytes = holder, lease_s, most_bytes

    def close(self) -> None:
        self.links.close()

    # Files.

    def add_file(self, file: File) -> None:
        """Raises:
        StoreFull: all files together would be larger than they may be.
        """
        with self.links.changing() as link:
            link.value(f"SELECT pg_advisory_xact_lock({FILES_LOCK})")
            held = int(link.value("SELECT coalesce(sum(bytes), 0)::bigint FROM gemstead_files"))
            if held + file.size_bytes > self._most_bytes:
                raise StoreFull(
                    f"the files in the store have {held >> 20} MiB of {self._most_bytes >> 20} "
                    "(batch.store_mib in gemstead.yaml): delete some"
                )
            _insert_file(link, file)

    def file(self, tenant: str, file_id: str) -> File | None:
        with self.links.one() as link:
            row = link.value(
                "SELECT row FROM gemstead_files WHERE file_id = $1 AND tenant = $2",
                kept(file_id),
                kept(tenant),
            )
        return _file(row) if row is not None else None

    def files(self, tenant: str, page: Page) -> tuple[list[File], bool]:
        rows, more = self._page("gemstead_files", "file_id", "row", tenant, page)
        return [_file(row[0]) for row in rows], more

    def remove_file(self, tenant: str, file_id: str) -> str:
        with self.links.changing() as link:
            there = "SELECT 1 FROM gemstead_files WHERE file_id = $1 AND tenant = $2 FOR UPDATE"
            if link.value(there, kept(file_id), kept(tenant)) is None:
                return ""
            used = "SELECT batch_id FROM gemstead_batches WHERE input_file_id = $1 AND ended_at = 0"
            if found := link.value(used, file_id):
                return str(found)
            _drop_files(link, [file_id])
        return ""

    def expire_files(self, now: int) -> list[str]:
        with self.links.changing() as link:
            rows = link.rows(
                "SELECT file_id FROM gemstead_files f WHERE expires_at <= $1 AND NOT EXISTS (SELECT 1 FROM "
                "gemstead_batches b WHERE b.input_file_id = f.file_id AND b.ended_at = 0) FOR UPDATE SKIP LOCKED",
                now,
            )
            _drop_files(link, [row[0] for row in rows])
        self.parts.tidy()
        return [row[0] for row in rows]

    # The bytes.

    def read_file(self, file: File) -> Iterator[bytes]:
        """The bytes of a file, in parts.

        Raises:
            OSError: some are missing, or damaged.
        """
        return self.parts.get(file.file_id, file.size_bytes)

    def answers(self, batch_id: str) -> Iterator[bytes]:
        """The blocks of answers that a batch has."""
        return self.parts.answers(batch_id)

    def add_answers(self, batch_id: str, turn: int, block: bytes, counts: Counts, usage: Usage) -> None:
        """Keep a block of answers of a batch that we hold, and how far it is with them. Raises Lost."""
        progress = msgspec.json.encode(Progress(counts, usage)).decode()
        with self.links.one() as link:
            sealed = self.parts.seal.close(link, batch_id, block)
        with self.links.changing() as link:
            still = link.do(
                f"UPDATE gemstead_batches SET progress = $4, lease_until = {NOW} + $5 "  # noqa: S608
                "WHERE batch_id = $1 AND holder = $2 AND turn = $3 AND ended_at = 0",
                *(batch_id, self.holder, turn, progress, self.lease_s),
            )
            if not still:
                raise Lost(batch_id)
            link.do("INSERT INTO gemstead_answers (batch_id, data) VALUES ($1, $2)", batch_id, sealed)

    # Batches.

    def add_batch(self, batch: Batch, caller: Caller) -> Held | None:
        with self.links.changing() as link:
            there = "SELECT 1 FROM gemstead_files WHERE file_id = $1 AND tenant = $2 FOR SHARE"
            if link.value(there, kept(batch.order.input_file_id), kept(batch.tenant)) is None:
                return None
            link.do(_INSERT_BATCH, *_values(batch, caller), self.holder, 1, self.lease_s)
        return Held(batch, caller, 1)

    def save(self, batch: Batch, files: Sequence[File] = (), turn: int = 0) -> None:
        with self.links.changing() as link:
            saved = link.do(
                "UPDATE gemstead_batches SET row = $4, ended_at = $5::bigint, "
                "progress = CASE WHEN $5::bigint > 0 THEN '' ELSE progress END "
                "WHERE batch_id = $1 AND holder = $2 AND turn = $3",
                *(batch.batch_id, self.holder, turn, _text(batch), batch.ended_at),
            )
            if not saved:
                raise Lost(batch.batch_id)
            for file in files:
                _insert_file(link, file)
            if batch.ended:
                link.do("DELETE FROM gemstead_answers WHERE batch_id = $1", batch.batch_id)

    def batch(self, tenant: str, batch_id: str) -> Seen | None:
        with self.links.one() as link:
            row = link.row(
                f"SELECT {_SEEN} FROM gemstead_batches WHERE batch_id = $1 AND tenant = $2",  # noqa: S608
                *(kept(batch_id), kept(tenant)),
            )
        return _seen(row) if row else None

    def batches(self, tenant: str, page: Page) -> tuple[list[Seen], bool]:
        rows, more = self._page("gemstead_batches", "batch_id", _SEEN, tenant, page)
        return [_seen(row) for row in rows], more

    def claim(self, most: int, but: Collection[str] = ()) -> list[Held]:
        """What nobody holds, and what is held under our name: call with those in `but` that we know of."""
        with self.links.one() as link:
            rows = link.rows(_CLAIM, self.holder, list(but), most, self.lease_s)
        return [
            Held(_batch(row), _caller(caller), turn, before, asked > 0)
            for row, caller, turn, before, asked in rows
        ]

    def keep_up(self, turns: Mapping[str, tuple[int, str]]) -> dict[str, bool]:
        if not turns:
            return {}
        numbers = [turn for turn, _ in turns.values()]
        paused = [kept(why) for _, why in turns.values()]
        with self.links.one() as link:
            rows = link.rows(_KEEP_UP, self.holder, list(turns), numbers, self.lease_s, paused)
        return {batch_id: asked > 0 for batch_id, asked in rows}

    def release(self, turns: Mapping[str, int], before: str | None = None) -> None:
        if turns:
            with self.links.one() as link:
                link.do(
                    "UPDATE gemstead_batches b SET lease_until = 0, holder = coalesce($4, b.holder) "
                    "FROM unnest($2::text[], $3::bigint[]) AS said(batch_id, turn) "
                    "WHERE b.batch_id = said.batch_id AND b.turn = said.turn AND b.holder = $1",
                    *(self.holder, list(turns), list(turns.values()), before),
                )

    def ask_cancel(self, tenant: str, batch_id: str, now: int) -> None:
        with self.links.one() as link:
            link.do(
                "UPDATE gemstead_batches SET cancel_asked = $3 WHERE batch_id = $1 AND tenant = $2 AND ended_at = 0 "
                "AND cancel_asked = 0",
                *(kept(batch_id), kept(tenant), now),
            )

    def forget_batches(self, before: int) -> int:
        with self.links.one() as link:
            return link.do("DELETE FROM gemstead_batches WHERE ended_at > 0 AND ended_at < $1", before)

    # What a gateway had by itself.

    def has_batch(self, batch_id: str) -> bool:
        """Whether there is such a batch, of whatever tenant."""
        with self.links.one() as link:
            return link.value("SELECT 1 FROM gemstead_batches WHERE batch_id = $1", batch_id) is not None

    def bring_file(self, file: File, pieces: Iterator[bytes]) -> None:
        """Take over a file that was kept elsewhere."""
        self.parts.put(file.file_id, pieces)
        with self.links.one() as link:
            _insert_file(link, file)

    def bring_batch(self, batch: Batch, caller: Caller, blocks: Iterator[bytes]) -> None:
        """Take over a batch that was kept elsewhere, with its answers so far; nobody holds it yet."""
        with self.links.one() as link:
            self.parts.seal.close(link, batch.batch_id, b"")  # fetches the key outside of the transaction
            with link.transaction():
                link.do(_INSERT_BATCH, *_values(batch, caller), "", 0, 0.0)
                for block in blocks:
                    sealed = self.parts.seal.close(link, batch.batch_id, block)
                    link.do(
                        "INSERT INTO gemstead_answers (batch_id, data) VALUES ($1, $2)",
                        batch.batch_id,
                        sealed,
                    )

    def _page(self, table: str, key: str, columns: str, tenant: str, page: Page) -> tuple[list[Row], bool]:
        order, beyond = ("ASC", ">") if page.ascending else ("DESC", "<")
        where, values = ["tenant = $1"], [kept(tenant)]
        if page.purpose and table == "gemstead_files":
            values.append(kept(page.purpose))
            where.append(f"purpose = ${len(values)}")
        if page.after:
            values.append(kept(page.after))
            found = f"SELECT seq FROM {table} WHERE {key} = ${len(values)} AND tenant = $1"  # noqa: S608
            where.append(f"seq {beyond} ({found})")
        with self.links.one() as link:
            rows = link.rows(
                f"SELECT {columns} FROM {table} WHERE {' AND '.join(where)} ORDER BY seq {order} "  # noqa: S608
                f"LIMIT {page.limit + 1}",
                *values,
            )
        return rows[: page.limit], len(rows) > page.limit


def _insert_file(link: Link, file: File) -> None:
    link.do(
        _INSERT_FILE,
        *(file.file_id, kept(file.tenant), file.purpose, file.expires_at, file.size_bytes, _text(file)),
    )


def _drop_files(link: Link, file_ids: Sequence[str]) -> None:
    link.do("DELETE FROM gemstead_file_parts WHERE file_id = ANY($1::text[])", list(file_ids))
    link.do("DELETE FROM gemstead_files WHERE file_id = ANY($1::text[])", list(file_ids))


def _values(batch: Batch, caller: Caller) -> tuple[object, ...]:
    return (
        batch.batch_id,
        kept(batch.tenant),
        batch.order.input_file_id,
        batch.ended_at,
        msgspec.json.encode(caller).decode(),
        _text(batch),
    )


def _text(value: Batch | File) -> str:
    return msgspec.json.encode(value).decode()


def _seen(row: Row) -> Seen:
    text, said, asked, lease_until, now = row
    batch, progress = _batch(text), _progress(said) if said else Progress()
    if asked:
        batch = step(batch, CancelAsked(), int(asked))[0]
    if batch.ended or not said:
        counts, usage = batch.counts, batch.usage
    else:
        counts, usage = replace(progress.counts, total=batch.counts.total), progress.usage
    if batch.ended:
        return Seen(batch)
    lapsed = float(lease_until) + LAPSED_S < float(now)
    return Seen(replace(batch, counts=counts, usage=usage), NOBODY if lapsed else progress.paused)
