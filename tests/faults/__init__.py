"""What happens when something fails or dies in the middle."""
