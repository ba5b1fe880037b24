"""Make a shard set: read inputs, encode them in parts, choose and order documents, write shards."""
