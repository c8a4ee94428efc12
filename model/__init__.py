"""What the codec is: its networks, its probability models and where they run."""
