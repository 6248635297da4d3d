"""How often the break-glass password was tried wrongly, whichever gateway it was tried at.

A try counts as wrong from its beginning, and a right one takes all back: so gateways that are tried at the same moment
allow no more together than one alone. The clock is the server's.
"""

from __future__ import annotations

from gemstead.ledger.postgres.link import linked, opened
from gemstead.ledger.postgres.parts import NOW
from gemstead.ledger.postgres.place import Place

LOCK = 0x67656D7472  # of pg_advisory_xact_lock
ANSWER_S = 3.0  # somebody waits at the door


class StoreTries:
    """The tries of all gateways of a store. Connects for each act, so any thread may call.

    Raises:
        LedgerTrouble: (every method) the store cannot be used.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def take(self, most: int, within_s: float, since: float) -> float:
        """Begin a try: 0; or the seconds until there may be one, and none is begun.

        Args:
            since: Unix seconds; earlier tries were of another password.
        """
        link = opened(self._place.url(), answer_s=ANSWER_S)
        try:
            with link.transaction():
                link.value(f"SELECT pg_advisory_xact_lock({LOCK})")
                link.do(f"DELETE FROM gemstead_tries WHERE at <= greatest({NOW} - $1, $2)", within_s, since)  # noqa: S608
                rows = link.rows(f"SELECT at - {NOW} FROM gemstead_tries ORDER BY at")  # noqa: S608
                if len(rows) >= most:
                    return max(0.001, float(rows[-most][0]) + within_s)
                link.do(f"INSERT INTO gemstead_tries (at) VALUES ({NOW})")  # noqa: S608
        finally:
            link.close()
        return 0.0

    def clear(self) -> None:
        """The password was right, or is another now."""
        with linked(self._place.url()) as link:
            link.do("DELETE FROM gemstead_tries")
