"""The migrations, in order; run by `storage.migrate`."""
