"""WordPiece tokenizers: a backbone's own, the same with a cache of words, and a learnt one."""
