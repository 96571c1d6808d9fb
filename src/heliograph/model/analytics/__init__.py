"""The sums over tasks: rollups, the sums in memory, and the deltas that publish their changes."""
