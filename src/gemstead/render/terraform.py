"""Terraform for the ground that a GKE deployment stands on: network, cluster, node pools, buckets, accounts, registry.

It is a hint to start from, in small files that a platform team can take over: nothing here knows of the pods, which
`render kubernetes` and `render gke` make. Nodes have no address of their own and reach the outside through NAT; the
models' bucket and Google's interfaces are reached privately; every account has just the roles that its work takes.
Node pools have the cards that the plan asks for and go down to nothing when nobody calls.
"""

from __future__ import annotations

from gemstead.catalog.machines import CloudMachine, carrying
from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.hcl import Block, Expr, document

SUMMARY = "Google Cloud: network, GKE cluster, node pools, buckets, service accounts, registry, as Terraform"
HEAD = "Made by gemstead render terraform from gemstead.yaml; change that file and render again."
PROVIDER = ">= 6.0, < 8.0"
TERRAFORM = ">= 1.6"
NODES, PODS, SERVICES, MASTER = "10.64.0.0/20", "10.68.0.0/14", "10.72.0.0/20", "172.16.64.0/28"
# What Google calls each card that is added to a machine; types that carry their cards need none of these.
CARDS = {
    "h100-sxm": "nvidia-h100-80gb", "h200-sxm": "nvidia-h200-141gb", "b200": "nvidia-b200", "l4": "nvidia-l4",
    "a100-80-sxm": "nvidia-a100-80gb", "a100-40": "nvidia-tesla-a100", "t4": "nvidia-tesla-t4",
    "rtx-pro-6000-server": "nvidia-rtx-pro-6000",
}  # fmt: skip
APIS = (
    "artifactregistry",
    "cloudresourcemanager",
    "compute",
    "container",
    "iam",
    "logging",
    "monitoring",
    "secretmanager",
    "storage",
)
GENERAL = "e2-standard-4"


def render(deployment: Deployment) -> Bundle:
    """The ground of a deployment on Google Cloud.

    Raises:
        Refused: Google rents no machine with the planned card.
    """
    files = {
        "versions.tf": [_versions()],
        "variables.tf": _variables(deployment),
        "network.tf": _network(),
        "cluster.tf": _cluster(),
        "pools.tf": [_general(), *(block for pool in deployment.pools for block in _pools(deployment, pool))],
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


def _network() -> list[Block]:
    name = Expr("var.name")
    return [
        Block(
            "resource",
            ("google_project_service", "api"),
            {
                "for_each": Expr("toset([" + ", ".join(f'"{api}"' for api in APIS) + "])"),
                "service": Expr('"${each.key}.googleapis.com"'),
                "disable_on_destroy": False,
            },
        ),
        Block(
            "resource",
            ("google_compute_network", "main"),
            {
                "name": name,
                "auto_create_subnetworks": False,
                "depends_on": [Expr("google_project_service.api")],
            },
        ),
        Block(
            "resource",
            ("google_compute_subnetwork", "nodes"),
            {
                "name": Expr('"${var.name}-nodes"'),
                "network": Expr("google_compute_network.main.id"),
                "region": Expr("var.region"),
                "ip_cidr_range": NODES,
                "private_ip_google_access": Because(
                    True, "buckets, registry and logging are reached without a way through the internet"
                ),
            },
            (
                Block("secondary_ip_range", body={"range_name": "pods", "ip_cidr_range": PODS}),
                Block("secondary_ip_range", body={"range_name": "services", "ip_cidr_range": SERVICES}),
                Block("log_config", body={"aggregation_interval": "INTERVAL_5_MIN", "flow_sampling": 0.1}),
            ),
        ),
        Block(
            "resource",
            ("google_compute_router", "main"),
            {"name": name, "network": Expr("google_compute_network.main.id"), "region": Expr("var.region")},
        ),
        Block(
            "resource",
            ("google_compute_router_nat", "main"),
            {
                "name": name,
                "router": Expr("google_compute_router.main.name"),
                "region": Expr("var.region"),
                "nat_ip_allocate_option": "AUTO_ONLY",
                "source_subnetwork_ip_ranges_to_nat": "ALL_SUBNETWORKS_ALL_IP_RANGES",
            },
            reason="the way out for nodes without addresses: images and models are fetched through it, nobody comes in",
        ),
    ]


def _cluster() -> list[Block]:
    return [
        Block(
            "resource",
            ("google_container_cluster", "main"),
            {
                "name": Expr("var.name"),
                "location": Because(
                    Expr("var.region"), "a regional cluster's interface survives the loss of a zone"
                ),
                "network": Expr("google_compute_network.main.id"),
                "subnetwork": Expr("google_compute_subnetwork.nodes.id"),
                "remove_default_node_pool": True,
                "initial_node_count": 1,
                "deletion_protection": Because(True, "set to false and apply before `terraform destroy`"),
                "enable_shielded_nodes": True,
                "datapath_provider": Because(
                    "ADVANCED_DATAPATH", "NetworkPolicies are enforced; without it they are text"
                ),
            },
            (
                Block("release_channel", body={"channel": "REGULAR"}),
                Block(
                    "workload_identity_config",
                    body={"workload_pool": Expr('"${var.project}.svc.id.goog"')},
                    reason="pods have accounts of their own and no keys in files",
                ),
                Block(
                    "ip_allocation_policy",
                    body={
                        "cluster_secondary_range_name": "pods",
                        "services_secondary_range_name": "services",
                    },
                ),
                Block(
                    "private_cluster_config",
                    body={
                        "enable_private_nodes": True,
                        "enable_private_endpoint": False,
                        "master_ipv4_cidr_block": MASTER,
                    },
                ),
                Block(
                    "master_authorized_networks_config",
                    inner=(
                        Block(
                            "dynamic",
                            ("cidr_blocks",),
                            {"for_each": Expr("var.administrators")},
                            (
                                Block(
                                    "content",
                                    body={
                                        "display_name": Expr("cidr_blocks.key"),
                                        "cidr_block": Expr("cidr_blocks.value"),
                                    },
                                ),
                            ),
                        ),
                    ),
                ),
                Block(
                    "gateway_api_config",
                    body={
                        "channel": Because(
                            "CHANNEL_STANDARD", "the inference gateway is made of Gateway API objects"
                        )
                    },
                ),
                Block(
                    "addons_config",
                    inner=(
                        Block("gcs_fuse_csi_driver_config", body={"enabled": True}),
                        Block("http_load_balancing", body={"disabled": False}),
                    ),
                ),
                Block("monitoring_config", inner=(Block("managed_prometheus", body={"enabled": True}),)),
                Block("binary_authorization", body={"evaluation_mode": "PROJECT_SINGLETON_POLICY_ENFORCE"}),
            ),
        )
    ]


def _general() -> Block:
    return _pool_block("general", GENERAL, "gateway, picker and what else needs no card", 1, 4, inner=())


def _pools(deployment: Deployment, pool: Pool) -> list[Block]:
    hardware = deployment.deploy.hardware
    machine = machine_for(pool)
    if machine is None:
        return []
    cards, each = int(pool.replicas.value) * pool.needs.gpus, machine.count
    most = -(-cards // each)
    inner = _accelerators(pool, machine)
    why = f"{pool.setup.model.title}: {cards} cards of {pool.setup.accelerator.name} in machines of {each}"
    found = [_pool_block(pool.name, machine.name, why, 0, max(most, 1), inner=inner, gpu=True)]
    if hardware.spot:
        reason = "spot machines first, for a fraction of the price; those above are the fallback when these are taken"
        found.append(
            _pool_block(
                f"{pool.name}-spot", machine.name, reason, 0, max(most, 1), inner=inner, gpu=True, spot=True
            )
        )
    return found


def machine_for(pool: Pool) -> CloudMachine | None:
    """The smallest of Google's machines that holds one replica; None where the plan takes no card.

    Raises:
        Refused: there is none.
    """
    card = pool.setup.accelerator
    if card.vendor == "cpu":
        return None
    able = [
        one for one in carrying(card.parent or card.id) if one.cloud == "gcp" and one.count >= pool.needs.gpus
    ]
    if not able:
        raise Refused(
            Reason.BAD_REQUEST,
            f"Google Cloud rents no machine with {pool.needs.gpus} x {card.name}: name another in deploy.hardware.gpu",
        )
    return min(able, key=lambda one: one.count)


def _accelerators(pool: Pool, machine: CloudMachine) -> tuple[Block, ...]:
    kind = CARDS.get(machine.accelerator)
    if kind is None:
        return ()
    driver = Block(
        "gpu_driver_installation_config",
        body={"gpu_driver_version": Because("LATEST", "vLLM's images want a driver of this year")},
    )
    return (Block("guest_accelerator", body={"type": kind, "count": machine.count}, inner=(driver,)),)


def _pool_block(
    name: str,
    machine: str,
    reason: str,
    least: int,
    most: int,
    *,
    inner: tuple[Block, ...],
    gpu: bool = False,
    spot: bool = False,
) -> Block:
    node = {
        "machine_type": machine,
        "service_account": Expr("google_service_account.nodes.email"),
        "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "disk_size_gb": Because(
            200 if gpu else 50,
            "an engine's image is 10 to 20 GB; weights lie elsewhere" if gpu else "images and logs",
        ),
        "disk_type": "pd-balanced",
        "spot": spot,
        "labels": {"gemstead.dev/pool": name},
    }
    guards = (
        Block(
            "shielded_instance_config",
            body={
                "enable_secure_boot": Because(True, "Google's own drivers are signed"),
                "enable_integrity_monitoring": True,
            },
        ),
        Block(
            "workload_metadata_config",
            body={"mode": Because("GKE_METADATA", "pods cannot ask for the node's own account")},
        ),
    )
    taint = (
        (
            Block(
                "taint",
                body={"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"},
                reason="nothing but engines runs beside the cards",
            ),
        )
        if gpu
        else ()
    )
    return Block(
        "resource",
        ("google_container_node_pool", name.replace("-", "_")),
        {
            "name": name[:40],
            "cluster": Expr("google_container_cluster.main.id"),
            "location": Expr("var.region"),
        },
        (
            Block(
                "autoscaling",
                body={
                    "total_min_node_count": least,
                    "total_max_node_count": most,
                    "location_policy": Because("ANY", "cards are where they are free"),
                },
            ),
            Block("management", body={"auto_repair": True, "auto_upgrade": True}),
            Block(
                "upgrade_settings",
                body={
                    "max_surge": Because(
                        0 if gpu else 1,
                        "no spare card is waited for while nodes are upgraded"
                        if gpu
                        else "one more while nodes are upgraded",
                    ),
                    "max_unavailable": 1 if gpu else 0,
                },
            ),
            Block("node_config", body=node, inner=(*inner, *guards, *taint)),
        ),
        reason=reason,
    )


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
