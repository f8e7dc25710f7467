"""What the embedded models know: drawn scenes, how they are drawn, and what is asked about them."""
