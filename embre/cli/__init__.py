"""The `embre` command: what each of its commands is given, does and prints."""
