"""Segments of a picture: found, cut out, given back. Pure tensor code: no import of the host."""
