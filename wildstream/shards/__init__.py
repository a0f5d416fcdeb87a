"""Videos on disk → tar shards and their index."""
