"""Pictures, sounds, pictures that sound, captions: made by published checkpoints."""
