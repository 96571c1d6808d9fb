"""The services and the clock of the conformance suite."""

from tests.conformance.conftest import fast_clock, launch

__all__ = ["fast_clock", "launch"]
