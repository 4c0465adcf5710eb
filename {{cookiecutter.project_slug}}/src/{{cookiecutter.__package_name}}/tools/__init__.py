"""What stands around a run: each file is a command, and deleting it takes away no more than that."""
