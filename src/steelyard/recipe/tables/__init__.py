"""The tables of a recipe as foreign text: what each field may say, with an example that works."""
