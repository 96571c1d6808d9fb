"""The front door of an agent's own program: its tasks, its workflow runs, its log lines.

``heliograph`` exports these names. A program's threads, and its tasks under asyncio or Trio, write into a
spool on disk; this package's one background thread sends it.
"""
