"""Quality of generated videos against real ones: distances between features, and the models that features come from.

Every model is optional, is opened from a path, and is never downloaded.
"""
