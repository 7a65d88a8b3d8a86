"""What a finished capture tells: masks of words, mistakes, points, sinks, heads, meetings, and which seeds work."""
