"""What other libraries call private and this package needs: only here, and checked before use."""
