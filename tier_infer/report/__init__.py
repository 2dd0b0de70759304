"""What a reader sees: overlay pictures and the page of a run."""
