"""The whole pipeline on a made-up corpus."""
