"""Webhooks: how they are configured, and what becomes of a delivery; pure values and functions."""
