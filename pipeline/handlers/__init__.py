"""What the two functions do: parse, call the pure parts in turn, send."""
