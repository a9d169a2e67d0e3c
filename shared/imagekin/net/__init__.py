"""Connections to other machines: images fetched, webhooks sent, private addresses refused."""
