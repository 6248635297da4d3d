"""Step 1 of `audit`: see `ledger/migrations/audit.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "audit_1"
down_revision: str | None = None
branch_labels: tuple[str, ...] | None = ("audit",)
depends_on: str | None = None


def upgrade() -> None:
    road.run("audit", 1)


def downgrade() -> None:
    road.undo("audit", 1)
