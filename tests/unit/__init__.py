"""Each stage alone, on built records: needs numpy and nothing else."""
