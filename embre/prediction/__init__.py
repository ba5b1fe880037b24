"""Prediction on files: each is written back with predicted relations; resumable."""
