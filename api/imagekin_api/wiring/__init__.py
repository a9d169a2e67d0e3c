"""What every request works with: the service's parts, request rates, held answers."""
