"""How good pictures are: features, distances between distributions, coverage and diversity."""
