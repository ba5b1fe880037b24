"""The whole job on a corpus that is made up."""
