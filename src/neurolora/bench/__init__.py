"""Speed and memory beside other methods, side by side in one run (`neurolora bench`)."""
