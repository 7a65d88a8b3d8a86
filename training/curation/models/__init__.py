"""What looks at pixels for a stage: shots, overlays, detectors, trackers. Each is data that travels to a worker."""
