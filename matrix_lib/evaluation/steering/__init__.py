"""How well steering works on the mini model: conditions, measurements, and the table that they end in."""
