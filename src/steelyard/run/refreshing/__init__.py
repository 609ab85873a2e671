"""A model that is trained again from rated answers."""
