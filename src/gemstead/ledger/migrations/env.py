"""What Alembic runs for every command: the steps, on the connection that `road.py` hands over.

There is no alembic.ini: `gemstead db upgrade|downgrade|current` are the commands.
"""

from __future__ import annotations

from alembic import context

given = context.config.attributes
context.configure(
    connection=given["connection"],
    version_table=given["version_table"],
    version_table_schema=given["version_table_schema"],
)
with context.begin_transaction():
    context.run_migrations()
