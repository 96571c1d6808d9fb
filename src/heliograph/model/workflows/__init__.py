"""Workflows: what their files say, and what becomes of their runs."""
