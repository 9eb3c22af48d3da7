"""How Alembic runs our migrations: on the connection that `payre_mcp.storage.migrate` hands over, never on a URL."""

from alembic import context

from payre_mcp.storage.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="payre_alembic_version",
    transactional_ddl=True,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
context.run_migrations()
