"""Strict configuration: each option is defined, documented, given its default and checked here, once."""
