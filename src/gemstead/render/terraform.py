"""Terraform for the ground that a GKE deployment stands on: network, cluster, node pools, buckets, accounts, registry.

It is a hint to start from, in small files that a platform team can take over: nothing here knows of the pods, which
`render kubernetes` and `render gke` make. Nodes have no address of their own and reach the outside through NAT; the
models' bucket and Google's interfaces are reached privately; every account has just the roles that its work takes.
Node pools have the cards that the plan asks for and go down to nothing when nobody calls.
"""

from __future__ import annotations

from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.hcl import Block, Expr, document
from gemstead.render.terraform_cluster import cluster, network
from gemstead.render.terraform_pools import general, machine_for, pools

SUMMARY = "Google Cloud: network, GKE cluster, node pools, buckets, service accounts, registry, as Terraform"
HEAD = "Made by gemstead render terraform from gemstead.yaml; change that file and render again."
PROVIDER = ">= 6.0, < 8.0"
TERRAFORM = ">= 1.6"


def render(deployment: Deployment) -> Bundle:
    """The ground of a deployment on Google Cloud.

    Raises:
        Refused: Google rents no machine with the planned card.
    """
    files = {
        "versions.tf": [_versions()],
        "variables.tf": _variables(deployment),
        "network.tf": network(),
        "cluster.tf": cluster(),
        "pools.tf": [general(), *(block for pool in deployment.pools for block in pools(deployment, pool))],
        "storage.tf": _storage(),
        "identity.tf": _identity(deployment),
        "outputs.tf": _outputs(),
    }
    texts = {path: document(blocks, head=HEAD) for path, blocks in files.items()}
    return Bundle("terraform", {**texts, "README.md": _readme(deployment)}, deployment.notes)


def _versions() -> Block:
    provider = {"google": {"source": "hashicorp/google", "version": PROVIDER}}
    return Block(
        "terraform",
        body={"required_version": TERRAFORM},
        inner=(
            Block("required_providers", body=provider),
            Block(
                "backend",
                ("gcs",),
                {},
                reason="name its bucket at `terraform init -backend-config=bucket=...`",
            ),
        ),
    )


def _variables(deployment: Deployment) -> list[Block]:
    cloud = deployment.deploy.cloud

    def variable(name: str, means: str, default: str) -> Block:
        said = {"default": default} if default else {}
        return Block("variable", (name,), {"description": means, "type": Expr("string"), **said})

    return [
        variable("project", "Project that everything is created in", cloud.project),
        variable("region", "Region", cloud.region),
        variable("name", "Name of everything that is created", deployment.name),
        variable("namespace", "Kubernetes namespace of the service", deployment.deploy.namespace),
        Block(
            "variable",
            ("administrators",),
            {
                "description": "Networks that may reach the cluster's interface, such as your office",
                "type": Expr("map(string)"),
                "default": Because(
                    {}, 'nobody from outside, until you say who: { office = "203.0.113.0/24" }'
                ),
            },
        ),
        Block("provider", ("google",), {"project": Expr("var.project"), "region": Expr("var.region")}),
    ]


def _storage() -> list[Block]:
    def bucket(label: str, suffix: str, reason: str, *more: Block) -> Block:
        return Block(
            "resource",
            ("google_storage_bucket", label),
            {
                "name": Expr(f'"${{var.project}}-${{var.name}}-{suffix}"'),
                "location": Expr("var.region"),
                "uniform_bucket_level_access": True,
                "public_access_prevention": "enforced",
                "force_destroy": False,
            },
            more,
            reason,
        )

    return [
        bucket(
            "models",
            "models",
            "weights, read by engines; in the cluster's region, or every start pays for the way",
            Block(
                "hierarchical_namespace",
                body={"enabled": Because(True, "many reads at once of few large files")},
            ),
        ),
        bucket(
            "backups",
            "backups",
            "keys and records, written by backups only",
            Block("versioning", body={"enabled": True}),
            Block("soft_delete_policy", body={"retention_duration_seconds": 2592000}),
        ),
        Block(
            "resource",
            ("google_artifact_registry_repository", "images"),
            {
                "repository_id": Expr("var.name"),
                "location": Expr("var.region"),
                "format": "DOCKER",
                "depends_on": [Expr("google_project_service.api")],
            },
            (
                Block(
                    "docker_config",
                    body={"immutable_tags": Because(True, "a tag that was tested stays what it was")},
                ),
            ),
        ),
    ]


def _identity(deployment: Deployment) -> list[Block]:
    found: list[Block] = []
    accounts = {
        "nodes": (
            "Nodes",
            (
                "roles/logging.logWriter",
                "roles/monitoring.metricWriter",
                "roles/monitoring.viewer",
                "roles/stackdriver.resourceMetadata.writer",
                "roles/artifactregistry.reader",
            ),
        ),
        "engines": ("Engines", ()),
        "gateway": ("Gateway", ("roles/monitoring.metricWriter",)),
    }
    for name, (title, roles) in accounts.items():
        found.append(
            Block(
                "resource",
                ("google_service_account", name),
                {"account_id": Expr(f'"${{var.name}}-{name}"'), "display_name": f"Gemstead: {title}"},
            )
        )
        if roles:
            found.append(
                Block(
                    "resource",
                    ("google_project_iam_member", name),
                    {
                        "for_each": Expr("toset([" + ", ".join(f'"{role}"' for role in roles) + "])"),
                        "project": Expr("var.project"),
                        "role": Expr("each.key"),
                        "member": Expr(f"google_service_account.{name}.member"),
                    },
                )
            )
    for name, pods in (("engines", "engine"), ("gateway", "gateway")):
        found.append(
            Block(
                "resource",
                ("google_service_account_iam_member", f"{name}_pods"),
                {
                    "service_account_id": Expr(f"google_service_account.{name}.name"),
                    "role": "roles/iam.workloadIdentityUser",
                    "member": Expr(
                        f'"serviceAccount:${{var.project}}.svc.id.goog[${{var.namespace}}/${{var.name}}-{pods}]"'
                    ),
                    "depends_on": [Expr("google_container_cluster.main")],
                },
                reason=f"the pods' account `{deployment.name}-{pods}` may act as this one",
            )
        )
    found.append(
        Block(
            "resource",
            ("google_storage_bucket_iam_member", "engines_models"),
            {
                "bucket": Expr("google_storage_bucket.models.name"),
                "role": Because("roles/storage.objectViewer", "engines read weights and write none"),
                "member": Expr("google_service_account.engines.member"),
            },
        )
    )
    found.append(
        Block(
            "resource",
            ("google_storage_bucket_iam_member", "gateway_backups"),
            {
                "bucket": Expr("google_storage_bucket.backups.name"),
                "role": Because("roles/storage.objectCreator", "backups are added, and never changed"),
                "member": Expr("google_service_account.gateway.member"),
            },
        )
    )
    return found


def _outputs() -> list[Block]:
    def output(name: str, expression: str, means: str) -> Block:
        return Block("output", (name,), {"description": means, "value": Expr(expression)})

    return [
        output(
            "credentials",
            '"gcloud container clusters get-credentials ${google_container_cluster.main.name} '
            '--region ${var.region} --project ${var.project}"',
            "Command that lets kubectl reach the cluster",
        ),
        output(
            "registry",
            '"${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"',
            "deploy.registry",
        ),
        output("models_bucket", "google_storage_bucket.models.name", "deploy.cache.bucket"),
        output(
            "gateway_account",
            "google_service_account.gateway.email",
            "What the gateway's pods act as: `render gke` names it when deploy.cloud.project is set",
        ),
    ]


def _readme(deployment: Deployment) -> str:
    rows = "\n".join(
        f"| `{pool.name}` | {machine.name} | {machine.count} x {pool.setup.accelerator.name} | {pool.replicas.value} |"
        for pool in deployment.pools
        if (machine := machine_for(pool)) is not None
    )
    table = (
        f"| pool | machine | cards | replicas |\n|---|---|---|---|\n{rows}\n"
        if rows
        else "No cards: engines run on the general pool.\n"
    )
    return f"""# The ground on Google Cloud

Made by `gemstead render terraform`: a network whose nodes have no addresses of their own, a regional GKE cluster with
Workload Identity, node pools that go down to nothing, buckets for models and backups, a registry whose tags do not
move, and accounts with just the roles that their work takes.

{table}
```console
$ terraform init -backend-config=bucket=YOUR-STATE-BUCKET
$ terraform plan -out=plan && terraform apply plan
$ $(terraform output -raw credentials)
$ gemstead render gke && gemstead apply gke
```

Say first who may reach the cluster: `administrators = {{ office = "203.0.113.0/24" }}` in `terraform.tfvars`. Cards
need quota in the region.
**Cost**: the cluster's fee and one general node all the time; machines with cards while engines run.
**Remove**: set `deletion_protection = false`, apply, empty the buckets, `terraform destroy`.
"""
