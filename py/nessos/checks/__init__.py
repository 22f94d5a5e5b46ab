"""Looking at a ness.OS: how each part is, what is wrong, what sharding would ask."""
