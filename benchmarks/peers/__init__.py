"""What users could take instead, one small file for each; see `benchmarks.windows`."""
