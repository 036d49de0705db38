"""What several test files use: toy runs, awkward networks, photos, the reader of pages."""
