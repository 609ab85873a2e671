"""What a person says: flags, answers to questions, folders; parsed once, each error names its flag."""
