"""Files in, the same files out with relations; what is done already stays."""
