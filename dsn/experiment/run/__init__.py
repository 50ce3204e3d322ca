"""One run: a strategy learns a stream, from its start or from where it was interrupted."""
