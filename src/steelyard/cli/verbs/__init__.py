"""A file for each subject of the commands: what each does with its flags."""
