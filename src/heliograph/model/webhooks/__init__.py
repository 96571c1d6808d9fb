"""Webhooks: their configuration, and the state of deliveries; pure values and functions."""
