"""Heliograph measured beside what its users would pick instead: ``python -m bench``."""
