"""The data path of pretraining: shards to masked micro-batches, in an order independent of rank."""
