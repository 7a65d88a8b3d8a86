"""Folders of clips, from the look at every file to batches of latents; nothing here knows what is trained on them."""
