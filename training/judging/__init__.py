"""What `training.judge` is made of: who answers, how answers become scores, what people see of it."""
