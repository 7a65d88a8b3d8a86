"""What `training.compare` runs, and what it then says: jobs, and the report over them."""
