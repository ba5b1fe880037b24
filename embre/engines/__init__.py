"""What carries out a step: plain torch or DeepSpeed ZeRO behind one protocol."""
