"""Pictures and checks of one image."""
