"""The interactive page: its assembly, and what a browser needs to run a network."""
