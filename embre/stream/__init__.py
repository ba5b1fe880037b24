"""The data path of pretraining: shards to masked micro-batches, in an order no rank decides."""
