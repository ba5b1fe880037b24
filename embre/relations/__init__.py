"""Relations and novelty: documents to candidate pairs, the model that reads them, decisions."""
