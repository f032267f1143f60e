"""Scales from medians of ratios."""
