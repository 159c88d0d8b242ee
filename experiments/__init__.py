"""Quality experiments as files: `<name>/config.yaml` in, `<name>/results.json` out."""
