"""The routes: a folder for each dialect, and what they are put together into."""
