"""The pretraining model: packed encoder, token head, entity head and concept table."""
