"""Documents as numbers, and sets of them as shards: written, read back, counted, checked."""
