"""Training engines: plain torch and DeepSpeed ZeRO behind one protocol."""
