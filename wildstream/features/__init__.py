"""Clips → features: extracted once, then trained on at the speed of memory."""
