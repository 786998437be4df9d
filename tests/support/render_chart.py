"""Lint and render a Helm chart and check every manifest against Kubernetes' own schemas; runs in `.charts`.

Arguments: the chart's folder; standard input: the values as JSON. Prints one JSON object: ``lint`` (findings),
``invalid`` (manifests that a schema refuses), ``documents`` (the manifests).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import yaml

KUBERNETES = "1.30"
# Of the Prometheus operator, not of Kubernetes.
FOREIGN = {"monitoring.coreos.com/v1"}


def documents_of(chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifests of a release."""
    with helm.Chart.load(str(chart)) as loaded:
        rendered = loaded.render(values, name="radiology", namespace="pacs")
    texts = (text for path, text in sorted(rendered.items()) if path.endswith(".yaml"))
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def faults_of(document: dict[str, Any]) -> str | None:
    """Return what Kubernetes' schema says against a manifest."""
    if document["apiVersion"] in FOREIGN:
        return None
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{document['kind']} {document['metadata']['name']}: {error.message}"
    return None


def main() -> None:
    """Print what the chart becomes."""
    chart, values = Path(sys.argv[1]), json.load(sys.stdin)
    lint = [message["error"] for message in helm.lint(chart, values)["messages"] or [] if message["severity"] >= 2]
    try:
        documents = documents_of(chart, values)
    except helm.HelmError as error:
        print(json.dumps({"lint": lint, "refused": str(error), "invalid": [], "documents": []}))
        return
    invalid = [fault for fault in map(faults_of, documents) if fault]
    print(json.dumps({"lint": lint, "refused": None, "invalid": invalid, "documents": documents}))


if __name__ == "__main__":
    main()
