"""The interactive page: its assembly, and what it takes to run a network in the reader's browser."""
