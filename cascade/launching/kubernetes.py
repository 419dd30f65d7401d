"""The Kubernetes objects of a run: one indexed Job a part, and a headless Service that gives their pods names.

Servers are Jobs too, and neither StatefulSets nor Deployments: they end with the run, by a file in its folder.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cascade.atomic import write_text
from cascade.config import Recipe
from cascade.errors import EngineError
from cascade.launching.commands import manifest_file
from cascade.launching.environment import LAUNCH
from cascade.launching.torchrun import torchrun_command

PORT = 29400  # where torchrun's agents meet, on pod 0
APPLY_S = 60.0
Manifest = dict[str, Any]


def write_manifests(recipe: Recipe, words: Sequence[str]) -> Path:
    """Writes them into the current folder, as one file; the run folder is often seen by pods only.

    `words`: recipe and overrides, as they were typed.
    """
    file = manifest_file(recipe)
    objects = manifests(recipe, words, launch=f"kubernetes-{time.strftime('%Y%m%d-%H%M%S')}")
    write_text(file, yaml.safe_dump_all(objects, sort_keys=False))
    return file


def apply(file: Path) -> str:
    """`kubectl apply`; returns what it says. Raises `EngineError` with its error."""
    try:
        words = ["kubectl", "apply", "-f", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=APPLY_S, check=False)
    except FileNotFoundError:
        raise EngineError("There is no kubectl here.", f"Apply {file} where there is one.") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"kubectl did not answer in {APPLY_S:.0f} s.", "See `kubectl cluster-info`.") from None
    if done.returncode != 0:
        raise EngineError(f"kubectl refused {file}: {done.stderr.strip()}", "Correct `launch.kubernetes`.")
    return done.stdout.strip()


def manifests(recipe: Recipe, words: Sequence[str], launch: str) -> list[Manifest]:
    """All objects of a run. `launch`: a name for this start of it, other than of any earlier one."""
    name, config = object_name(recipe.name), recipe.launch
    meet = f"{name}-train-0.{name}:{PORT}" if config.nodes > 1 else None
    train = torchrun_command(replace(config, rendezvous=meet), ["run", *words], "python")
    retries = config.nodes * config.max_restarts
    made = [_service(recipe, name), _job(recipe, name, "train", launch, config.nodes, config.processes, train, retries)]
    for part, nodes, replicas in (
        ("rollout", config.rollout_nodes, recipe.rollout.replicas),
        ("teachers", config.teacher_nodes, recipe.teachers.replicas),
    ):
        if nodes:
            server = ["python", "-m", "cascade.launching.server_node", part, *words]
            gpus = recipe.rollout.tensor_parallel
            made.append(_job(recipe, name, part, launch, replicas, gpus, server, 3 * replicas))
    return made


def object_name(name: str) -> str:
    """A recipe's name as Kubernetes allows names: at most 40 of a-z, 0-9 and -, a letter first."""
    return re.sub(r"[^a-z0-9]+", "-", f"cascade-{name.lower()}")[:40].strip("-")


def _service(recipe: Recipe, name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(recipe, name, name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # pods look for each other before they are ready
            "selector": {"app": name},
            "ports": [{"name": "meet", "port": PORT}],
        },
    }


def _job(
    recipe: Recipe, name: str, part: str, launch: str, pods: int, gpus: int, command: Sequence[str], retries: int
) -> Manifest:
    config = recipe.launch.kubernetes
    container: Manifest = {
        "name": part,
        "image": config.image,
        "command": list(command),
        "env": [
            {"name": LAUNCH, "value": launch},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "volumeMounts": [
            {"name": "shared", "mountPath": config.mount},
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }
    if config.gpu_resource:
        container["resources"] = {"limits": {config.gpu_resource: gpus}}
    pod: Manifest = {
        "subdomain": name,  # pod k of a part is PART-k.NAME
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": config.volume_claim}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{config.shared_memory_gib}Gi"}},
        ],
    }
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(recipe, f"{name}-{part}", name),
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": retries,
            "template": {"metadata": {"labels": {"app": name, "part": part}}, "spec": pod},
        },
    }


def _metadata(recipe: Recipe, name: str, app: str) -> Manifest:
    return {"name": name, "namespace": recipe.launch.kubernetes.namespace, "labels": {"app": app}}
