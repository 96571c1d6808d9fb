"""The dashboard page, as static files."""
