"""ComfyUI's services: paths, model loading, memory, progress, previews, noise, conditioning, logging."""
