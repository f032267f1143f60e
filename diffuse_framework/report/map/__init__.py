"""Pictures and checks of a map."""
