"""A JSON schema of the fields that cluster/kuberay uses of KubeRay 1.5, which no package holds; a pod template is any object."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PART: Schema = {"type": "object"}


def strict(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Return an object of these fields and no others."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


START = {"type": "object", "additionalProperties": {"type": "string"}}  # flags of `ray start`: a number is a string
HEAD = strict({"rayStartParams": START, "template": PART}, {"serviceType": {"enum": ["ClusterIP"]}})
WORKERS = strict(
    {"groupName": TEXT, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": START, "template": PART},
    {"replicas": COUNT, "idleTimeoutSeconds": COUNT, "numOfHosts": COUNT},
)
AUTOSCALER = strict(
    {},
    {
        "idleTimeoutSeconds": COUNT,
        "resources": PART,
        "securityContext": PART,
        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
    },
)
CLUSTER_SPEC = strict(
    {"rayVersion": TEXT, "headGroupSpec": HEAD, "workerGroupSpecs": {"type": "array", "items": WORKERS, "minItems": 1}},
    {
        "authOptions": strict({"mode": {"enum": ["disabled", "token"]}}),
        "enableInTreeAutoscaling": FLAG,
        "autoscalerOptions": AUTOSCALER,
    },
)
JOB_SPEC = strict(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER_SPEC},
    {
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "submitterPodTemplate": PART,
        "backoffLimit": COUNT,
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "shutdownAfterJobFinishes": FLAG,
        "ttlSecondsAfterFinished": COUNT,
    },
)
SCHEMAS = {
    kind: strict(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": kind},
            "metadata": strict({"name": TEXT, "namespace": TEXT}),
            "spec": spec,
        }
    )
    for kind, spec in {"RayCluster": CLUSTER_SPEC, "RayJob": JOB_SPEC}.items()
}
