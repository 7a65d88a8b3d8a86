"""Pages for people: a small server on the loopback address, a page that asks one thing at a time, and pages in one file."""
