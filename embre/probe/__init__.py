"""What an encoder knows: which concepts it takes hidden mentions for."""
