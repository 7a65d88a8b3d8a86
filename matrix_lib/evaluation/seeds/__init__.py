"""Seed rules out of judged runs, and what choosing seeds by one is worth."""
