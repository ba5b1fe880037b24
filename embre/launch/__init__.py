"""What is between people and runs: the command, the driver of a job, and how ranks come to be."""
