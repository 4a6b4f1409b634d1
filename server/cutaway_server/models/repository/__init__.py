"""A folder of models: `NAME/VERSION/model.yaml` with the weights beside it."""
