"""Evaluation of predicted relations against gold: scores, intervals, groups, plots, a report."""
