"""Pages for people: a server on the loopback address, a page that asks one thing at a time, pages in one file."""
