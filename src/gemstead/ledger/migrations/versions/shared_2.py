"""Step 2 of `shared`: see `ledger/migrations/shared.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "shared_2"
down_revision: str | None = "shared_1"
branch_labels: tuple[str, ...] | None = None
depends_on: str | None = None


def upgrade() -> None:
    road.run("shared", 2)


def downgrade() -> None:
    road.undo("shared", 2)
