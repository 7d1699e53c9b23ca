"""What all steps share: paths, video reading, faces, pictures, scores. Imports nothing else of the project."""
