"""What a run has found, for people: one page, and what it is made of."""
