"""Manifests for Kubernetes, Kubeflow and SkyPilot, from a profile and a configuration."""
