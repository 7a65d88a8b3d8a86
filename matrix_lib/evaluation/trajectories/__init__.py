"""Scores of generated videos from tracks alone, without a language model: who is still there, who follows which path,
who looks like whom, who touches whom."""
