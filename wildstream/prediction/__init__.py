"""Videos without labels → probabilities of every frame, events, and videos with the labels drawn in."""
