# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

# gateway, picker and what else needs no card
resource "google_container_node_pool" "general" {
  name     = "general"
  cluster  = google_container_cluster.main.id
  location = var.region

  autoscaling {
    total_min_node_count = 1
    total_max_node_count = 4
    # cards are where they are free
    location_policy = "ANY"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    # one more while nodes are upgraded
    max_surge       = 1
    max_unavailable = 0
  }

  node_config {
    machine_type    = "e2-standard-4"
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    # images and logs
    disk_size_gb = 50
    disk_type    = "pd-balanced"
    spot         = false
    labels = {
      "gemstead.dev/pool" = "general"
    }

    shielded_instance_config {
      # Google's own drivers are signed
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      # pods cannot ask for the node's own account
      mode = "GKE_METADATA"
    }
  }
}

# Gemma 4 31B: 8 cards of NVIDIA H100 SXM5 80GB in machines of 2
resource "google_container_node_pool" "gemma_4_31b" {
  name     = "gemma-4-31b"
  cluster  = google_container_cluster.main.id
  location = var.region

  autoscaling {
    total_min_node_count = 0
    total_max_node_count = 4
    # cards are where they are free
    location_policy = "ANY"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    # no spare card is waited for while nodes are upgraded
    max_surge       = 0
    max_unavailable = 1
  }

  node_config {
    machine_type    = "a3-highgpu-2g"
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    # an engine's image is 10 to 20 GB; weights lie elsewhere
    disk_size_gb = 200
    disk_type    = "pd-balanced"
    spot         = false
    labels = {
      "gemstead.dev/pool" = "gemma-4-31b"
    }

    guest_accelerator {
      type  = "nvidia-h100-80gb"
      count = 2

      gpu_driver_installation_config {
        # vLLM's images want a driver of this year
        gpu_driver_version = "LATEST"
      }
    }

    shielded_instance_config {
      # Google's own drivers are signed
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      # pods cannot ask for the node's own account
      mode = "GKE_METADATA"
    }

    # nothing but engines runs beside the cards
    taint {
      key    = "nvidia.com/gpu"
      value  = "present"
      effect = "NO_SCHEDULE"
    }
  }
}
