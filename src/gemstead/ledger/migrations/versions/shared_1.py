"""Step 1 of `shared`: see `ledger/migrations/shared.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "shared_1"
down_revision: str | None = None
branch_labels: tuple[str, ...] | None = ("shared",)
depends_on: str | None = None


def upgrade() -> None:
    road.run("shared", 1)


def downgrade() -> None:
    road.undo("shared", 1)
