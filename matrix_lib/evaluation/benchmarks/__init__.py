"""Files of other benchmarks, read and written, and scores in the form that their tables have."""
