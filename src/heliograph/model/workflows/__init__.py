"""Workflows: the contents of their files, and the state of their runs."""
