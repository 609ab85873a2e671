"""What keys have used: an account each, shared with others by SQLite (one host) or Postgres (many)."""
