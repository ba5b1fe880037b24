"""Word pieces: a backbone's own tokenizer, the same asked once a word, and one learnt."""
