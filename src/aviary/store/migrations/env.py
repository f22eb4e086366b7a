"""Run by alembic; the open connection comes from `aviary.store.migrate`."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
)
# The caller has begun the transaction and commits it: all steps together, or none.
context.run_migrations()
