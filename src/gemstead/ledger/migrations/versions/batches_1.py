"""Step 1 of `batches`: see `ledger/migrations/batches.py`."""

from __future__ import annotations

from gemstead.ledger.migrations import road

revision: str = "batches_1"
down_revision: str | None = None
branch_labels: tuple[str, ...] | None = ("batches",)
depends_on: str | None = None


def upgrade() -> None:
    road.run("batches", 1)


def downgrade() -> None:
    road.undo("batches", 1)
