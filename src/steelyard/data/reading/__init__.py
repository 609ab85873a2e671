"""Files as records, records as chats and texts: every format and every shape that people's data has."""
