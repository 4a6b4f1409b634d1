"""Networks that are served: the built-in ones, how they are prepared, listed, mirrored, and fed."""
