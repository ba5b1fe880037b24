"""EMBRE at scale: entity-masking pretraining on PubTator, relations and novelty learnt from it."""

__version__ = "0.1.0"
