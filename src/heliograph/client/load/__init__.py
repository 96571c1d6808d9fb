"""The load engine: many streams and publishers, and what they saw."""
