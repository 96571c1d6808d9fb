"""The sums over tasks: rollups, their sums in memory, and the deltas that tell of them."""
