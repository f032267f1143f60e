"""The science as pure functions on arrays: no plugins, parameters or files."""
