"""Images, and the experiments and reflections that come with them."""
