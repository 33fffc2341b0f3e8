"""What candidates of a search space cost once they are compiled: rewritten, sliced and planned for a target."""
