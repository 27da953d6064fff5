"""Architectures, one a file. Each is a function from an image shape and its options to a pair of networks."""
