"""The ledger in a database: SQLModel tables are the schema, raw statements are the money path, Alembic moves between versions."""
