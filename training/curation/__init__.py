"""From raw clips to a folder that trains: stages as plain classes, results that are kept, two engines that run them."""
