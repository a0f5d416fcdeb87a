"""What a trained model is worth: figures, and pictures of them."""
