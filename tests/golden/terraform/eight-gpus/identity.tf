# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

resource "google_service_account" "nodes" {
  account_id   = "${var.name}-nodes"
  display_name = "Gemstead: Nodes"
}

resource "google_project_iam_member" "nodes" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/monitoring.viewer", "roles/stackdriver.resourceMetadata.writer", "roles/artifactregistry.reader"])
  project  = var.project
  role     = each.key
  member   = google_service_account.nodes.member
}

resource "google_service_account" "engines" {
  account_id   = "${var.name}-engines"
  display_name = "Gemstead: Engines"
}

resource "google_service_account" "gateway" {
  account_id   = "${var.name}-gateway"
  display_name = "Gemstead: Gateway"
}

resource "google_project_iam_member" "gateway" {
  for_each = toset(["roles/monitoring.metricWriter"])
  project  = var.project
  role     = each.key
  member   = google_service_account.gateway.member
}

# the pods' account `gemstead-engine` may act as this one
resource "google_service_account_iam_member" "engines_pods" {
  service_account_id = google_service_account.engines.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/${var.name}-engine]"
  depends_on         = [google_container_cluster.main]
}

# the pods' account `gemstead-gateway` may act as this one
resource "google_service_account_iam_member" "gateway_pods" {
  service_account_id = google_service_account.gateway.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/${var.name}-gateway]"
  depends_on         = [google_container_cluster.main]
}

resource "google_storage_bucket_iam_member" "engines_models" {
  bucket = google_storage_bucket.models.name
  # engines read weights and write none
  role   = "roles/storage.objectViewer"
  member = google_service_account.engines.member
}

resource "google_storage_bucket_iam_member" "gateway_backups" {
  bucket = google_storage_bucket.backups.name
  # backups are added, and never changed
  role   = "roles/storage.objectCreator"
  member = google_service_account.gateway.member
}
