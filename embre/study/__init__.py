"""A study: its cells, what came out of them as a table, and its picture."""
