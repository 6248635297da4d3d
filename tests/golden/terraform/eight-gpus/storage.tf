# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

# weights, read by engines; in the cluster's region, or every start pays for the way
resource "google_storage_bucket" "models" {
  name                        = "${var.project}-${var.name}-models"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  hierarchical_namespace {
    # many reads at once of few large files
    enabled = true
  }
}

# keys and records, written by backups only
resource "google_storage_bucket" "backups" {
  name                        = "${var.project}-${var.name}-backups"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 2592000
  }
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.api]

  docker_config {
    # a tag that was tested stays what it was
    immutable_tags = true
  }
}
