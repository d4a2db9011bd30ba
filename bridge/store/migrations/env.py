"""Run by Alembic. Registers `op.run_sql_file`, and runs everything in one transaction.

`bridge/store/migrate.py` hands over an open connection, which holds the lock that keeps two
processes from migrating at once.
"""

from pathlib import Path
from typing import Any

from alembic import context
from alembic.operations import MigrateOperation, Operations


@Operations.register_operation("run_sql_file")
class RunSqlFile(MigrateOperation):
    """Runs the .sql file that has the name of a migration's .py file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).with_suffix(".sql")

    @classmethod
    def run_sql_file(cls, operations: Operations, path: str) -> Any:
        return operations.invoke(cls(path))


@Operations.implementation_for(RunSqlFile)
def run_sql_file(operations: Operations, operation: RunSqlFile) -> None:
    # Straight to psycopg, without parameters: the file may hold many statements, colons and percent signs.
    driver = operations.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(operation.path.read_text())


connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_version")
context.run_migrations()
