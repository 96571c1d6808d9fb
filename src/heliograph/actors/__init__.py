"""The actors: the tasks that run between the log and the streams."""

from heliograph.actors.appender import Appender
from heliograph.actors.archiver import Archiver
from heliograph.actors.audit import Audit
from heliograph.actors.bridge import Bridge
from heliograph.actors.clock import Clock
from heliograph.actors.engine import Engine
from heliograph.actors.executions import Executions
from heliograph.actors.heartbeats import Heartbeats
from heliograph.actors.histogram import Histogram
from heliograph.actors.hub import Hub
from heliograph.actors.keyring import Keyring
from heliograph.actors.monitor import Monitor
from heliograph.actors.receiver import Receiver
from heliograph.actors.registry import Registry
from heliograph.actors.retention import Retention
from heliograph.actors.signing import SigningSecrets
from heliograph.actors.subscriber import Subscriber
from heliograph.actors.sweeper import Sweeper
from heliograph.actors.webhooks import Webhooks

__all__ = [
    "Appender",
    "Archiver",
    "Audit",
    "Bridge",
    "Clock",
    "Engine",
    "Executions",
    "Heartbeats",
    "Histogram",
    "Hub",
    "Keyring",
    "Monitor",
    "Receiver",
    "Registry",
    "Retention",
    "SigningSecrets",
    "Subscriber",
    "Sweeper",
    "Webhooks",
]
