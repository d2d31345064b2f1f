"""Domain adaptation: from rows with labels in one domain (the source) to rows without in another (the target)."""
