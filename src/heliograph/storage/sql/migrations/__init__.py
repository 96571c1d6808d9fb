"""The migrations, in order; run by ``storage.sql.migrate``."""
