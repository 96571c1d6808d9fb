"""The front door of an agent's own program: its tasks, its workflow runs, its log lines.

``heliograph`` offers these names at its top. A program's threads, and its tasks under asyncio or Trio, write
into a spool on disk; one thread of this package's own sends it.
"""
