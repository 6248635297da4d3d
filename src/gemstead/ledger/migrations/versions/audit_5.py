"""Step 5 of `audit`: see `ledger/migrations/audit.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "audit_5"
down_revision: str | None = "audit_4"
branch_labels: tuple[str, ...] | None = None
depends_on: str | None = None


def upgrade() -> None:
    road.run("audit", 5)


def downgrade() -> None:
    road.undo("audit", 5)
