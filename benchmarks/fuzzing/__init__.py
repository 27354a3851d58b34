"""Cases of benchmarks/fuzz.py: an input made of a random generator, and what the package does with it."""
