"""Bridges to other people's trainers and file formats; each imports its library when it is used."""
