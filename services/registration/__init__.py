"""Registration: who the volunteers, units and roles are, which activities there are, and who sits where."""
