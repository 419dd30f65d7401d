"""What runs inside a room, with the standard library alone."""
