"""Weights, networks and ranges that other toolkits made."""
