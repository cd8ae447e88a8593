"""What the project has published and never takes back: a JSON Schema and a golden example of each version of each event."""
