"""Figures of the book, each with a description in words."""
