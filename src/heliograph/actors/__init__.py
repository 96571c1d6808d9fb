"""The actors: what runs between the log and the streams."""

from heliograph.actors.appender import Appender
from heliograph.actors.archiver import Archiver
from heliograph.actors.bridge import Bridge
from heliograph.actors.histogram import Histogram
from heliograph.actors.hub import Hub
from heliograph.actors.retention import Retention
from heliograph.actors.subscriber import Subscriber
from heliograph.actors.sweeper import Sweeper

__all__ = ["Appender", "Archiver", "Bridge", "Histogram", "Hub", "Retention", "Subscriber", "Sweeper"]
