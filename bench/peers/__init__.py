"""The servers that are measured: Heliograph, three peers, and a floor that nothing can go below.

Each peer does what its users do with it, with its best settings, and no more: ``GET /ws/{channel}`` and
``GET /sse/{channel}`` watch, ``POST`` publishes. None of them keeps, numbers or replays anything.
"""
