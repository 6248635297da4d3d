"""Step 1 of `ship`: see `ledger/migrations/ship.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "ship_1"
down_revision: str | None = None
branch_labels: tuple[str, ...] | None = ("ship",)
depends_on: str | None = None


def upgrade() -> None:
    road.run("ship", 1)


def downgrade() -> None:
    road.undo("ship", 1)
