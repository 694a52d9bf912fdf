"""The bundled targets: data, read by evolve/target_files.py."""
