"""Step 2 of `keys`: see `ledger/migrations/keys.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "keys_2"
down_revision: str | None = "keys_1"
branch_labels: tuple[str, ...] | None = None
depends_on: str | None = None


def upgrade() -> None:
    road.run("keys", 2)


def downgrade() -> None:
    road.undo("keys", 2)
