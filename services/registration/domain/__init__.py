"""What follows from this, by our rules? No clock, no IO; one file an aggregate."""
