"""The Python client: publish, follow, and run programs as tasks."""
