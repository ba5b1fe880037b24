"""Encode documents as token ids and mention spans; write, read, count and check shard sets."""
