"""Backbones, heads, and the builder that puts them together."""
