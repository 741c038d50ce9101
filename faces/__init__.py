"""Faces in a picture: found, chosen and drawn. Knows numpy, OpenCV and what insightface hands over, not ComfyUI."""
