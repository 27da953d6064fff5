"""Pictures of what generators draw."""
