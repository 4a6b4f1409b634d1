"""inference.GRPCInferenceService: the Open Inference Protocol, over the same models."""
