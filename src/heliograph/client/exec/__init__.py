"""Run a program as a task."""
