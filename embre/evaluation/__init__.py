"""Predicted relations held against gold ones: scores, intervals, groups, pictures, a page."""
