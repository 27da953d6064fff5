"""Real pictures: where they come from, how they are kept, and how batches are drawn."""
