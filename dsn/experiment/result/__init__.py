"""A result: what a run found, on disk and in pictures, and what is made of it afterwards."""
