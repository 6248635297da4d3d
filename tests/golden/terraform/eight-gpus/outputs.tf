# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

output "credentials" {
  description = "Command that lets kubectl reach the cluster"
  value       = "gcloud container clusters get-credentials ${google_container_cluster.main.name} --region ${var.region} --project ${var.project}"
}

output "registry" {
  description = "deploy.registry"
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "models_bucket" {
  description = "deploy.cache.bucket"
  value       = google_storage_bucket.models.name
}

output "gateway_account" {
  description = "What the gateway's pods act as: `render gke` names it when deploy.cloud.project is set"
  value       = google_service_account.gateway.email
}
