"""Benchmarks: both sides in one process, interleaved, as ratios. Run with `python3 dev.py bench`."""
