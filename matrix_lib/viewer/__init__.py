"""The attention viewer: what a page may ask of a capture, and the pages and widgets that ask it."""
