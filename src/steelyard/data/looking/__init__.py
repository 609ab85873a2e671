"""What is asked of data without making any: checked and counted for a plan, looked at by a person."""
