"""Who answers: files, a service, a local model, a person. Each is a `Judge`; to add one, write a file beside these."""
