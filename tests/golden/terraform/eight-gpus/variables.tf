# Made by gemstead render terraform from gemstead.yaml; change that file and render again.

variable "project" {
  description = "Project that everything is created in"
  type        = string
}

variable "region" {
  description = "Region"
  type        = string
}

variable "name" {
  description = "Name of everything that is created"
  type        = string
  default     = "gemstead"
}

variable "namespace" {
  description = "Kubernetes namespace of the service"
  type        = string
  default     = "gemstead"
}

variable "administrators" {
  description = "Networks that may reach the cluster's interface, such as your office"
  type        = map(string)
  # nobody from outside, until you say who: { office = "203.0.113.0/24" }
  default = {}
}

provider "google" {
  project = var.project
  region  = var.region
}
