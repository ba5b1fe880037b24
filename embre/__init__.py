"""EMBRE at scale: entity-masking pretraining on PubTator, and the relations and novelty learnt from it."""

__version__ = "0.1.0"
