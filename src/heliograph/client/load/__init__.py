"""The load engine: many streams and publishers, and their measurements."""

from heliograph.client.load.publishing import Pace, Publishing, Saturating, SteadyPace, TrafficShape
from heliograph.client.load.run import Heliograph, LoadRun, Plan, load_command
from heliograph.client.load.swarm import Dialect, LoadError, Swarm, Tally, allow_sockets

__all__ = [
    "Dialect",
    "Heliograph",
    "LoadError",
    "LoadRun",
    "Pace",
    "Plan",
    "Publishing",
    "Saturating",
    "SteadyPace",
    "Swarm",
    "Tally",
    "TrafficShape",
    "allow_sockets",
    "load_command",
]
