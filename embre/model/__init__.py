"""The pretraining model: a packed encoder, the entity head, and the table of all concepts."""
