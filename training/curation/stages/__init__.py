"""The stages of a curation, one file each; what they share is in the folder above."""
