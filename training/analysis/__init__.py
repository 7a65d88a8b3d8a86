"""What `training.analyse` is made of: its settings, the LoRAs that it puts on a model, what it says of seeds."""
