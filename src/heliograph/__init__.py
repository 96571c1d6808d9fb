"""Heliograph: the live backend of dashboards for AI-agent fleets."""

__version__ = "0.1.0"
