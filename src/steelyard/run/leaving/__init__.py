"""What passed leaves: as a file that other programs load, loaded back by them and judged."""
