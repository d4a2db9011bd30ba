"""Run by Alembic: everything that is pending, over the connection that `bridge/store/migrate.py` has opened.

That connection holds the lock that keeps two processes from migrating at once.
"""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_version")
context.run_migrations()
