"""Making a shard set: inputs are read, joined, encoded in parts, chosen, ordered and written."""
