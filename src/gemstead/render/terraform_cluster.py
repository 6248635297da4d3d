"""Network and cluster: nodes have no addresses of their own, and nobody reaches its interface until it is said."""

from __future__ import annotations

from gemstead.render.because import Because
from gemstead.render.hcl import Block, Expr

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
NODES, PODS, SERVICES, MASTER = "10.64.0.0/20", "10.68.0.0/14", "10.72.0.0/20", "172.16.64.0/28"


def network() -> list[Block]:
    """The network, its subnet with Google's services reached privately, and the way out."""
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


def cluster() -> list[Block]:
    """The cluster, and who may be what in it."""
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
