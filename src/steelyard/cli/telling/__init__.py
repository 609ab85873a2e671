"""What a person is told: words and languages, lines, tables, bars, documents."""
