# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

terraform {
  required_version = ">= 1.6"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }

  # name its bucket at `terraform init -backend-config=bucket=...`
  backend "gcs" {}
}
