"""Absolute scales: electron units per unit cell."""
