"""What one refresh needs: answers on their way to the store, and the limits of what is in flight."""
