"""trio and Linux: everything that touches the world."""
