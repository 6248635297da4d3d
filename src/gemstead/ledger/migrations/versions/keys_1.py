"""Step 1 of `keys`: see `ledger/migrations/keys.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "keys_1"
down_revision: str | None = None
branch_labels: tuple[str, ...] | None = ("keys",)
depends_on: str | None = None


def upgrade() -> None:
    road.run("keys", 1)


def downgrade() -> None:
    road.undo("keys", 1)
