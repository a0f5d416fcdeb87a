"""Shards → batches: plan, storage, decoding, windows, shuffle, loader."""
