"""hours: who was there when, and which minutes count."""
