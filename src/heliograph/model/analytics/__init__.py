"""What tasks add up to: rollups, their sums in memory, and the deltas that tell of them."""
